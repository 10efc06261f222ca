"""The stand-in for CuPy: launches and what is checked of them, modules, arrays, streams, memory."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import compiler, environment


def refused(cp: Any) -> list[Any]:
    y = cp.zeros(8, np.float32)
    by, n = np.float32(2), np.int32(8)
    return [
        ((y, by), TypeError, "takes 3 arguments"),
        ((y, by, n, n), TypeError, "takes 3 arguments"),
        ((y, by, 8), TypeError, "numpy.int32 is wanted; CuPy passes Python's numbers with 64 bits"),
        ((y, 2.0, n), TypeError, "numpy.float32 is wanted"),
        ((y, np.float64(2), n), TypeError, "numpy.float32 is wanted"),
        ((y, by, np.int64(8)), TypeError, "numpy.int32 is wanted"),
        ((y, by, np.uint32(8)), TypeError, "numpy.int32 is wanted"),
        ((y.get(), by, n), TypeError, "an array of the host"),
        ((y.astype(np.float64), by, n), TypeError, "its dtype is float64, the kernel reads float32"),
        ((y[::2], by, n), TypeError, "not contiguous"),
        ((by, by, n), TypeError, "an array of the device is wanted"),
        ((y, y, n), TypeError, "numpy.float32 is wanted"),
    ]


@pytest.mark.parametrize("case", range(12))
def test_wrong_arguments_are_refused(cp, toys, case):
    arguments, error, message = refused(cp)[case]
    with pytest.raises(error, match=message):
        toys.get_function("scale")((1,), (8,), arguments)


def test_offset_of_a_view_is_honoured(cp, toys):
    y = cp.ones(8, np.float32)
    toys.get_function("scale")((1,), (8,), (y[4:], np.float32(3), np.int32(2)))
    assert y.get().tolist() == [1, 1, 1, 1, 3, 3, 1, 1]


def test_parameters_of_every_kind(cp, toys):
    kernel = toys.get_function("many")
    expected = "pc:v0 p:u1 pc:f4 scalar:f8 scalar:i8 scalar:u4 scalar:b1 struct:8 p:f4"
    assert " ".join(kernel.parameters) == expected
    pair = np.array([(0.5, 7)], dtype=[("a", "f4"), ("b", "i4")])[0]
    q, y = cp.asarray(np.array([0, 100, 0, 0], np.float32)), cp.zeros(1, np.float32)
    numbers = (np.float64(1), np.int64(2), np.uint32(3), np.bool_(True), pair)
    kernel((1,), (1,), (q, None, q, *numbers, y))
    assert float(y[0]) == 100 + 1 + 2 + 3 + 1 + 7.5


@pytest.mark.parametrize(
    ("grid", "block", "error"),
    [
        ((1,), (1025,), "block"),
        ((1,), (32, 64), "1024 threads"),
        ((1, 65536), (1,), "grid"),
        ((0,), (1,), "grid"),
        ((1,), (1, 1, 65), "block"),
    ],
)
def test_limits_of_grid_and_block(cp, toys, grid, block, error):
    with pytest.raises(cp.cuda.driver.CUDADriverError, match=error):
        toys.get_function("between_blocks")(grid, block, (cp.zeros(1, np.float32),))


def test_limits_of_shared_memory(cp, toys):
    kernel = toys.get_function("leftovers")
    y = cp.zeros(32, np.float32)
    kernel((1,), (32,), (y,), shared_mem=48 << 10)
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="max_dynamic_shared_size_bytes"):
        kernel((1,), (32,), (y,), shared_mem=(48 << 10) + 1)
    kernel.max_dynamic_shared_size_bytes = 227 << 10
    kernel((1,), (32,), (y,), shared_mem=227 << 10)
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="232448"):
        kernel.max_dynamic_shared_size_bytes = (227 << 10) + 1
    cp.cuda.Device().synchronize()


@pytest.mark.parametrize("i", [-1, 8, 60, -60])
def test_writing_just_outside_an_array_is_found(cp, toys, i):
    toys.get_function("write_at")((1,), (32,), (cp.zeros(8, np.float32), np.int32(i)))
    with pytest.raises(cp.KernelFault, match="outside of the array that is argument 0"):
        cp.cuda.Device().synchronize()


def test_writing_beyond_shared_memory_is_found(cp, toys):
    toys.get_function("write_shared_at")((1,), (32,), (cp.zeros(8, np.float32), np.int32(8)), shared_mem=32)
    with pytest.raises(cp.KernelFault, match="beyond its 32 bytes"):
        cp.cuda.Device().synchronize()


def test_a_fault_is_an_error_of_the_launch(cp, toys):
    for name, arguments in (("misaligned", ()), ("write_at", (np.int32(1 << 30),))):
        toys.get_function(name)((1,), (1,), (cp.zeros(8, np.float32), *arguments))
        with pytest.raises(cp.KernelFault, match=f"fault .*launch of {name}"):
            cp.cuda.Device().synchronize()


def test_functions_declared_extern_c_need_no_expression(cp, toy_source):
    module = cp.RawModule(code=toy_source)
    y = cp.ones(4, np.float32)
    module.get_function("plain")((1,), (4,), (y,))
    assert y.get().tolist() == [0, 0, 0, 0]  # 1e-39 is flushed to zero, as CuPy's option -ftz has it
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="NOT_FOUND"):
        module.get_function("between_blocks")


def test_source_that_does_not_compile(cp):
    with pytest.raises(cp.cuda.compiler.CompileException, match="nonsense"):
        cp.RawModule(code="__global__ void f() { nonsense; }", name_expressions=("f",)).get_function("f")


def test_two_processes_compile_one_module(tmp_path):
    program = (
        "import cupy, numpy as np\n"
        "f = cupy.RawModule(code='__global__ void f(int* x) { atomicAdd(x, 2); }', name_expressions=['f'])\n"
        "x = cupy.zeros(1, np.int32); f.get_function('f')((2,), (3,), (x,)); print(int(x[0]))"
    )
    variables = {**environment.environment(), "CKNCUDA_CPU_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", program]
    both = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["12\n", "12\n"]


def test_modules_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("CKNCUDA_CPU_CACHE", str(tmp_path))
    source = "__global__ void f(int* x) { x[0] = NUMBER; }"
    first = compiler.build(source, ["f"], ("-DNUMBER=1",))
    made = first.stat().st_mtime_ns
    assert compiler.build(source, ["f"], ("-DNUMBER=1", "--use_fast_math")).stat().st_mtime_ns == made
    assert compiler.build(source, ["f"], ("-D", "NUMBER=2")) != first
    monkeypatch.setenv("CKNCUDA_CPU_FLAGS", "-g")
    assert compiler.build(source, ["f"], ("-DNUMBER=1",)) != first
    assert not [path for path in tmp_path.rglob("*.part")]
    assert os.environ["CKNCUDA_CPU_CACHE"] == str(tmp_path)


def test_modules_that_rest_keep_no_stacks(cp, toy_source, monkeypatch):
    launching = sys.modules[cp.RawModule.__module__]
    monkeypatch.setattr(launching, "MODULES_WITH_STACKS", 1)
    y, threads = cp.ones(8, np.float32), 600

    def launch(module):
        module.get_function("scale")((1,), (threads,), (y, np.float32(2), np.int32(8)))
        cp.cuda.Stream.null.synchronize()
        with open("/proc/self/maps") as maps:
            return len(list(maps))

    options = {"options": ("--std=c++17",), "name_expressions": ["scale"]}
    modules = [cp.RawModule(code=f"{toy_source}// {i}\n", **options) for i in range(2)]
    first, second, again = (launch(module) for module in [*modules, modules[0]])
    assert max(second, again) - first < threads  # each thread's stack takes two
    assert y.get().tolist() == [2.0**3] * 8


def test_switch_of_the_system_does_the_same(cp, toy_source, monkeypatch):
    monkeypatch.setenv("CKNCUDA_CPU_FLAGS", "-DCKN_UCONTEXT")
    x = cp.arange(200, dtype=np.float32)
    y = cp.empty_like(x)
    module = cp.RawModule(code=toy_source, name_expressions=("reverse",))
    module.get_function("reverse")((1,), (200,), (x, y), shared_mem=800)
    np.testing.assert_array_equal(y.get(), x.get()[::-1])


def test_a_child_process_finds_cupy_and_a_driver():
    program = "import ctypes, cupy; ctypes.CDLL('libcuda.so.1'); print(cupy.cuda.runtime.getDeviceCount())"
    command, variables = [sys.executable, "-c", program], environment.environment()
    assert subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout == "1\n"


def test_host_and_device_do_not_mix(cp):
    x, host = cp.ones(3, np.float32), np.ones(3, np.float32)
    mixtures = [
        lambda: np.asarray(x), lambda: x + host, lambda: host + x, lambda: np.add(x, host), lambda: x @ host,
        lambda: cp.concatenate([x, host]), lambda: np.concatenate([x, host]), lambda: x[host > 0],
        lambda: cp.dot(x, host), lambda: x.__setitem__(slice(None), host), lambda: cp.sum(host),
        lambda: np.array([x]), lambda: x.__iadd__(host), lambda: host.__iadd__(x),
        lambda: host.__setitem__(slice(None), x),
    ]  # fmt: skip
    for mix in mixtures:
        with pytest.raises((TypeError, ValueError)):
            mix()


def test_numbers_of_the_host_do_mix(cp):
    x = cp.arange(4, dtype=np.float32)
    for result in (x + 1, 1 + x, np.float32(1) + x, x + np.float32(1), np.add(x, 1)):
        assert isinstance(result, cp.ndarray)
        assert result.dtype == np.float32
        assert result.get().tolist() == [1, 2, 3, 4]


def test_functions_are_numpys(cp, rng):
    host = rng.normal(size=(4, 5)).astype(np.float32)
    x = cp.asarray(host)
    device_windows, windows = (m.lib.stride_tricks.sliding_window_view for m in (cp, np))
    pairs = [
        (x.sum(axis=0), host.sum(axis=0)),
        (cp.einsum("ij,kj->ik", x, x), np.einsum("ij,kj->ik", host, host)),
        (x[1:, ::2], host[1:, ::2]),
        (x[cp.asarray(np.array([2, 0]))], host[[2, 0]]),
        (cp.where(x > 0, x, 0), np.where(host > 0, host, 0)),
        (cp.linalg.norm(x, axis=1), np.linalg.norm(host, axis=1)),
        (x.T @ x, host.T @ host),
        (x.astype(np.float64).mean(), host.astype(np.float64).mean()),
        (device_windows(x, (2, 2)), windows(host, (2, 2))),
        (cp.add.reduce(x, axis=1), np.add.reduce(host, axis=1)),
        (np.exp(x), np.exp(host)),
    ]
    for device, expected in pairs:
        assert isinstance(device, cp.ndarray)
        np.testing.assert_array_equal(device.get(), expected)
    assert isinstance(x.sum(), cp.ndarray)
    assert x.sum().shape == ()
    out = cp.empty_like(x)
    assert cp.multiply(x, 2, out=out) is out
    same = x
    same += 1
    assert same is x
    view = x[0]
    view[...] = 7
    assert (x.get()[0] == 7).all()


def test_a_pinned_buffer_must_not_be_written_before_the_copy_is_done(cp, toys):
    memory = cp.cuda.alloc_pinned_memory(16)
    pinned = np.frombuffer(memory, np.float32, 4)
    x, stream = cp.zeros(4, np.float32), cp.cuda.Stream(non_blocking=True)
    pinned[...] = 1
    x.set(pinned, stream=stream)
    pinned[...] = 2  # too early
    toys.get_function("scale")((1,), (4,), (x, np.float32(10), np.int32(4)), stream=stream)
    back = np.frombuffer(cp.cuda.alloc_pinned_memory(16), np.float32, 4)
    back[...] = 0
    x.get(out=back, stream=stream, blocking=False)
    assert back.tolist() == [0, 0, 0, 0]
    stream.synchronize()
    assert back.tolist() == [20, 20, 20, 20]


def test_work_of_another_stream_has_not_been_done_without_an_event(cp, toys):
    x = cp.ones(4, np.float32)
    one, other = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    toys.get_function("scale")((1,), (4,), (x, np.float32(5), np.int32(4)), stream=one)
    with other:
        assert float(x.sum()) == 4
        other.wait_event(one.record())
        assert float(x.sum()) == 20


def test_the_null_stream_waits_for_blocking_streams(cp, toys):
    x, stream = cp.ones(4, np.float32), cp.cuda.Stream()
    toys.get_function("scale")((1,), (4,), (x, np.float32(5), np.int32(4)), stream=stream)
    assert float(x.sum()) == 20


def test_memory_of_the_device_is_limited(cp, monkeypatch):
    used = cp.get_default_memory_pool().used_bytes()
    monkeypatch.setenv("CKNCUDA_CPU_DEVICE_MEMORY", str(used + (1 << 20)))
    free, _ = cp.cuda.runtime.memGetInfo()
    x = cp.zeros(200_000, np.float32)
    assert free - cp.cuda.runtime.memGetInfo()[0] == 800_000
    with pytest.raises(cp.cuda.memory.OutOfMemoryError, match="800,000 bytes"):
        cp.empty(200_000, np.float32)
    with pytest.raises(cp.cuda.memory.OutOfMemoryError):
        x + x
    view = x[10:]
    del x
    assert cp.cuda.runtime.memGetInfo()[0] < free
    del view
    assert cp.cuda.runtime.memGetInfo()[0] == free
