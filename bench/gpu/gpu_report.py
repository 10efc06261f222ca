"""What gpu_measure.py writes: rows, the table that holds them, and the machine that they were measured on."""

import dataclasses
import json
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gpu_results import one_line, write_whole

COLUMNS = (
    "what",
    "precision",
    "ours",
    "PyTorch's best",
    "ours over PyTorch",
    "ours, TFLOP/s",
    "of the floor",
    "target",
    "difference from float64: ours, PyTorch",
    "remarks",
)
QUERY = "driver_version,memory.total,power.limit,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu"


@dataclass(eq=False)
class Row:
    """One line of the table: rates of ours and of PyTorch at one thing, at one precision."""

    what: str
    precision: str
    unit: str = "images/s"
    ours: float | None = None
    theirs: float | None = None
    tflops: float | None = None
    of_floor: float | None = None
    least_ratio: float | None = None
    least_of_floor: float | None = None
    our_error: float | None = None
    their_error: float | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    tried: dict[str, float] = field(default_factory=dict)  # rates of PyTorch's forms
    remarks: list[str] = field(default_factory=list)
    lost_the_gpu: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours over PyTorch's best."""
        return self.ours / self.theirs if self.ours and self.theirs else None

    def set_error(self, side: str, error: float) -> None:
        """Keep a side's relative difference from the reference."""
        if side == "ours":
            self.our_error = error
        else:
            self.their_error = error

    def target(self, judged: bool) -> str:
        """What is asked for, and whether it is reached where that can be said."""
        for least, value, text in (
            (self.least_ratio, self.ratio, f"≥ {self.least_ratio or 0:g} times"),
            (self.least_of_floor, self.of_floor, f"≥ {self.least_of_floor or 0:.0%} of the floor"),
        ):
            if least is not None:
                if not judged or value is None:
                    return text
                return text + (": reached" if value >= least else ": missed")
        return ""

    def line(self, judged: bool) -> str:
        """The row in Markdown."""
        errors = [_number(error, ".1e") or "none" for error in (self.our_error, self.their_error)]
        cells = [
            self.what,
            self.precision,
            _number(self.ours, ",.4g" if (self.ours or 0) < 1000 else ",.0f", f" {self.unit}"),
            _number(self.theirs, ",.4g" if (self.theirs or 0) < 1000 else ",.0f", f" {self.unit}"),
            _number(self.ratio, ".2f"),
            _number(self.tflops, ".3g"),
            _number(self.of_floor, ".0%"),
            self.target(judged),
            ", ".join(errors) if errors != ["none", "none"] else "",
            "; ".join(self.remarks).replace("|", "/"),
        ]
        return "| " + " | ".join(cells) + " |"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else format(value, form) + unit


@dataclass
class Report:
    """Everything that was measured; written anew after each row, so that nothing is lost."""

    command: str
    rehearsal: bool
    markdown_path: Path | None
    json_path: Path | None
    notes: tuple[str, ...] = ()
    machine: dict[str, str] = field(default_factory=dict)
    copy_rate: float | None = None  # bytes a second, read and written
    matrix_rates: dict[str, float] = field(default_factory=dict)  # FLOP a second, by precision
    exp_rate: float | None = None  # exponentials a second
    failures: list[str] = field(default_factory=list)  # of what has no row
    rows: list[Row] = field(default_factory=list)
    earlier: dict[tuple[str, str], Row] = field(default_factory=dict)  # by what and precision
    status: str = "still running"

    def head(self) -> list[str]:
        """What stands above the table."""
        title = "# Extraction, k-means and exact kernels on a GPU"
        if self.rehearsal:
            title = "# A rehearsal of `bench/gpu/gpu_measure.py` without a GPU: these figures mean nothing"
        rates = [f"{rate / 1e12:,.4g} ({name})" for name, rate in self.matrix_rates.items()]
        ceilings = [f"copies {self.copy_rate / 1e9:,.4g} GB/s, read and written"] if self.copy_rate else []
        ceilings += [f"matrix products {', '.join(rates)} TFLOP/s"] if rates else []
        ceilings += [f"exponentials {self.exp_rate / 1e12:,.4g} T/s"] if self.exp_rate else []
        return [
            title,
            "",
            f"Made by `{self.command}`: {self.status}.",
            "",
            *(f"- {name}: {value}" for name, value in self.machine.items()),
            f"- Ceilings, measured in the same run: {'; '.join(ceilings) or 'none'}",
            *(f"- {failure}" for failure in self.failures),
            "",
            *self.notes,
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|" + "---|" * len(COLUMNS),
        ]

    def add(self, row: Row) -> None:
        """Print a row and write everything so far."""
        if not self.rows:
            print("\n".join(self.head()), flush=True)
        self.rows.append(row)
        print(row.line(judged=not self.rehearsal), flush=True)
        self.write()

    def replace(self, row: Row, again: Row) -> None:
        """Put a later measurement in a row's place."""
        self.rows[self.rows.index(row)] = again
        print(again.line(judged=not self.rehearsal), flush=True)
        self.write()

    def markdown(self) -> str:
        """The whole file."""
        return "\n".join([*self.head(), *(row.line(not self.rehearsal) for row in self.rows)]) + "\n"

    def data(self) -> dict[str, Any]:
        """The same as plain data, in full precision."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own["rows"] = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in self.rows]
        # Until all had their turn, earlier rows are those of the file, too.
        own["rows"] += [dataclasses.asdict(row) | {"ratio": row.ratio} for row in self.earlier.values()]
        del own["earlier"]
        return {name: value for name, value in own.items() if not name.endswith("_path")}

    def write(self) -> None:
        """Write both files, where they are wanted."""
        if self.markdown_path:
            write_whole(self.markdown_path, self.markdown())
        if self.json_path:
            write_whole(self.json_path, json.dumps(self.data(), indent=1, ensure_ascii=False) + "\n")

    def resume(self) -> None:
        """Take over what an earlier run has measured; rows stay apart until their turn comes."""
        if self.json_path is None or not self.json_path.exists():
            return
        found = json.loads(self.json_path.read_text(encoding="utf-8"))
        for name in ("copy_rate", "matrix_rates", "exp_rate"):
            setattr(self, name, found[name])
        for row in found["rows"]:
            row.pop("ratio")
            if row["ours"] is not None or row["lost_the_gpu"]:  # what else failed is tried again
                self.earlier[row["what"], row["precision"]] = Row(**row)


def machine(cupy: Any, torch: Any) -> dict[str, str]:
    """The GPU and the libraries; what cannot be found out is left away."""
    found = {"Python": f"{platform.python_version()}, NumPy {np.__version__}"}
    if torch is not None:
        found["PyTorch"] = f"{torch.__version__}, built for CUDA {torch.version.cuda}"
    if cupy is not None:
        found["CuPy"] = str(getattr(cupy, "__version__", "without a version"))
        for look in (_device, _versions):
            try:
                found |= look(cupy.cuda.runtime)
            except Exception as error:  # a stand-in has no such thing
                found.setdefault("GPU", f"unknown ({one_line(error)})")
    if state := gpu_state():
        found["nvidia-smi at the beginning"] = state
    return found


def _device(runtime: Any) -> dict[str, str]:
    number = runtime.getDevice()
    properties = runtime.getDeviceProperties(number)
    name = properties["name"]
    return {
        "GPU": f"{name.decode() if isinstance(name, bytes) else name}, "
        f"{properties['multiProcessorCount']} multiprocessors, compute capability "
        f"{properties['major']}.{properties['minor']}, {properties['l2CacheSize'] >> 20} MiB of L2, "
        f"{properties['totalGlobalMem'] / 2**30:.0f} GiB"
    }


def _versions(runtime: Any) -> dict[str, str]:
    def text(number: int) -> str:
        return f"{number // 1000}.{number % 1000 // 10}"

    return {
        "CUDA": f"{text(runtime.runtimeGetVersion())}, driver for {text(runtime.driverGetVersion())}",
    }


def gpu_state() -> str:
    """Driver, memory, power and clocks as nvidia-smi reports them now; empty where it is not there."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    values = answer.strip().splitlines()[:1]
    return ", ".join(
        f"{name} {value.strip()}"
        for line in values
        for name, value in zip(QUERY.split(","), line.split(","), strict=False)
    )
