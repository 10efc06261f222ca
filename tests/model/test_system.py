"""A system and the forms in which it is written down: presets, TOML, plain data, one line of text."""

import json
import re

import hypothesis
import pytest
from factories import make_spec, stripes
from hypothesis import strategies as st

import ckncuda
from ckncuda import ArcCosine, EncoderSpec, ExactKernel, Exponential, Polynomial, Symmetries, System
from ckncuda.errors import InvalidSpec
from ckncuda.exact.encoder import ExactEncoderSpec
from ckncuda.images.preprocess import ZCA, LocalWhitening, Standardize
from ckncuda.layer.spec import KernelLayer
from ckncuda.supervised.encoder import TrainedEncoderSpec
from ckncuda.supervised.training import Training

NETWORK = EncoderSpec([make_spec(filters=4)], ())
SPEC = KernelLayer(patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
RELU_SPEC = KernelLayer(patch=3, subsampling=3, kernel=ArcCosine(1))
EXACT = ExactEncoderSpec(ExactKernel([SPEC]), ())

LAYER = "[[layers]]\nfilters=4\npatch=3\nsubsampling=2\nsigma=1\n"
TWO = """
[[encoders]]
layers = [{ filters = 4, patch = 3, subsampling = 2, sigma = 0.6 }]

[[encoders]]
layers = [{ filters = 8, patch = 2, subsampling = 3, kernel = "poly", degree = 2 }]
preprocessing = [{ name = "local_whitening", power = 0.5 }]
symmetries = { flip = true, shift = 1 }

[classifier]
name = "kernel-ridge"
kernel = "poly"
degree = 3
regularization = 0.01
"""


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "net.toml"
        path.write_text(text)
        return str(path)

    return write


def test_a_file_of_two_encoders(toml):
    system = System.from_toml(toml(TWO))
    second = make_spec(filters=8, patch=2, subsampling=3, kernel=Polynomial(degree=2))
    other = EncoderSpec([second], [LocalWhitening(power=0.5)], Symmetries(flip=True, shift=1))
    assert (system.networks, system.exact, system.kernels) == ((NETWORK, other), False, ())
    ridge = system.make_classifier(seed=5)
    assert isinstance(ridge, ckncuda.KernelRidge)
    assert (ridge.kernel, ridge.regularization, ridge.seed) == (Polynomial(degree=3), 0.01, 5)


EXACT_FILES = {
    "tangent and flip at the top": (
        'tangent = true\nflip = true\n[[layers]]\npatch = 3\nsubsampling = 3\nkernel = "arccos1"\n',
        ExactKernel([RELU_SPEC], tangent=True, flip=True),
    ),
    "in a table of their own": (
        "[exact]\nflip = true\n[[layers]]\nfilters = 1\npatch = 3\nsubsampling = 2\n"
        'kernel = "exp"\nsigma = 0.6\n[classifier]\nname = "softmax"\n',
        ExactKernel([SPEC], flip=True),
    ),
    "as one encoder": (
        "[[encoders]]\nsymmetries = { flip = true }\n"
        'layers = [{ patch = 3, subsampling = 3, kernel = "arccos1" }]\ntangent = true\n',
        ExactKernel([RELU_SPEC], tangent=True, flip=True),
    ),
}


BAD_EXACT_FILES = [
    (
        "[[encoders]]\n[[layers]]\n",
        "{}: layers and encoders both describe kernels; put all of it into [[encoders]]",
    ),
    (
        "[[encoders]]\nflap = true\n",
        "{}: an exact kernel has no flap; it has flip, layers, preprocessing, symmetries, tangent",
    ),
    (
        "[symmetries]\nshift = 1\n" + LAYER,
        "{}: shift is 1; exact kernels are averaged over mirror images alone: leave shift out",
    ),
    (
        "[[layers]]\npatch = 3\nsubsampling = 2\nquantile = 0.1\n",
        "layer 1: an exact kernel learns nothing from images: give sigma, not quantile",
    ),
    ("flip = true\n", "{} describes no layer: it needs [[layers]] with patch and subsampling"),
    (
        "flap = true\n",
        "{}: there is no flap in the description of an exact kernel; there is classifier, encoders, exact, "
        "flip, layers, preprocessing, symmetries, tangent",
    ),
    ("[exact]\nflap = true\n", "{}: exact must be a table of tangent and flip; it is {{'flap': True}}"),
    (
        "flip = true\n[exact]\nflip = false\n",
        "{}: flip stands at the top and in [exact]; leave one of them out",
    ),
    ('flip = "yes"\n' + LAYER, "flip is 'yes'; expected true or false"),
    ("encoders = 'two'\n", "{}: encoders must be tables: [[encoders]]"),
    ("symmetries = 3\n" + LAYER, "{}: symmetries must be a table of flip and shift; it is 3"),
    (
        LAYER + "decorrelation = 0.25\n",
        "layer 1: decorrelation is 0.25; an exact kernel has no filters to decorrelate: leave it out",
    ),
]

BAD_FILES = [
    ("layers =", "{} is not TOML: "),
    ("", "{} describes no layer: it needs [[layers]] with filters, patch, subsampling"),
    (
        LAYER + "[optimizer]\nlr=1",
        "{}: there is no table optimizer; there are encoders, layers, preprocessing, symmetries, training, "
        "classifier",
    ),
    (LAYER + "stride=1", "a layer with the kernel exp has no option 'stride'; it has filters, "),
    (
        "[[layers]]\nfilters=4\npatch=3\nsubsampling=2\nkernel=['exp']",
        "there is no kernel ['exp']; the kernels are exp, ",
    ),
    (LAYER + "[[preprocessing]]\nname='pca'", "there is no preprocessing 'pca'"),
    (
        LAYER + "[classifier]\nname='forest'",
        "{}: there is no classifier 'forest'; there is ridge, kernel-ridge, nystrom-ridge, softmax, "
        "squared-hinge, head, none",
    ),
    (LAYER + "[[classifier]]\nname='ridge'", "{}: classifier must be a table"),
    (LAYER + "[classifier]\nname=['ridge']", "{}: there is no classifier ['ri"),
    (
        LAYER + "[classifier]\nname='ridge'\nC=1",
        "the classifier ridge has no option C; it has regularization, validation, seed",
    ),
    (
        "encoders=[]\n" + LAYER,
        "{}: layers and encoders both describe encoders; put all of it into [[encoders]]",
    ),
    ("encoders='two'", "{}: encoders must be tables: [[encoders]]"),
    ("layers=[1]", "{}: layers must be tables: [[layers]]"),
    (
        "[[encoders]]\nclassifier='ridge'",
        "{}: an encoder has no classifier; it has layers, preprocessing, symmetries, training",
    ),
    ("[[encoders]]\nsymmetries={flip=true}", "{} describes no layer: "),
    ("symmetries=3\n" + LAYER, "{}: symmetries must be a table of flip and shift; it is 3"),
    ("symmetries={flip=1}\n" + LAYER, "flip is 1; expected true or false"),
    (LAYER + "[classifier]\nregularization=[1]", "regularization is [1]; "),
    (LAYER + "[classifier]\nname='softmax'\nvalidation='a'", "validation is 'a'; "),
    (LAYER + "[classifier]\nname='softmax'\nseed='a'", "seed is 'a'"),
]


@pytest.mark.parametrize("name", EXACT_FILES)
def test_a_file_of_an_exact_kernel(toml, name):
    text, kernel = EXACT_FILES[name]
    system = System.from_toml(toml(text), "exact")
    assert system == System([ExactEncoderSpec(kernel, ())], "gram-ridge")
    assert (system.exact, system.kernels) == (True, (kernel,))
    if name != "as one encoder":  # which says nothing at its top
        assert System.from_toml(toml(text)) == system


def test_a_file_without_a_word_on_exact_kernels_is_of_networks(toml):
    path = toml(LAYER)
    assert isinstance(System.from_toml(path).encoders[0], EncoderSpec)
    assert isinstance(System.from_toml(path, "exact").encoders[0], ExactEncoderSpec)
    with pytest.raises(InvalidSpec, match="there is no table flip; there are encoders, layers, "):
        System.from_toml(toml("flip=true\n" + LAYER), "nystrom")


@pytest.mark.parametrize(("text", "message"), BAD_EXACT_FILES)
def test_files_that_describe_no_exact_kernel(toml, text, message):
    path = toml(text)
    with pytest.raises(InvalidSpec, match=f"^{re.escape(message.format(path))}$"):
        System.from_toml(path, "exact")


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_files_that_describe_no_system(toml, text, message):
    path = toml(text)
    with pytest.raises(InvalidSpec, match=f"^{re.escape(message.format(path))}"):
        System.from_toml(path).check((12, 12, 3))


def test_a_file_that_is_missing():
    with pytest.raises(InvalidSpec, match="cannot read the configuration nowhere.toml: No such file or dir"):
        System.from_toml("nowhere.toml")


def trained(*layers, train_layers=None):
    return TrainedEncoderSpec(layers, training=Training(train_layers=train_layers))


REFUSED = {
    "nothing": (lambda: System([]), "at least one encoder"),
    "both": (lambda: System([NETWORK, EXACT]), "of networks or one of exact kernels"),
    "classifier": (lambda: System([NETWORK], "forest"), "no classifier 'forest'; there is ridge, "),
    "of exact kernels": (lambda: System([NETWORK], "gram-ridge"), "no classifier 'gram-ridge'"),
    "of features": (
        lambda: System([EXACT], "softmax"),
        "is 'softmax'; exact kernels have gram-ridge",
    ),
    "option": (
        lambda: System([EXACT], "", {"kernel": "arccos1"}).make_classifier(0),
        "gram-ridge has no option kernel; it has regularization, weights, validation, seed",
    ),
    "none": (
        lambda: System([NETWORK], "none", {"seed": 1, "kernel": "auto"}).make_classifier(0),
        "without a classifier there is no kernel, seed",
    ),
    "head without training": (lambda: System([NETWORK], "head"), "of which all layers are trained"),
    "head and decorrelation": (
        lambda: System([trained(make_spec(decorrelation=0.25))], "head"),
        "learns without decorrelation",
    ),
    "decorrelation under a trained layer": (
        lambda: trained(make_spec(decorrelation=0.25), make_spec(), make_spec(), train_layers=2),
        "give layer 1 decorrelation=0; layer 2 and those above may have one",
    ),
    "shape": (lambda: System([NETWORK]).check((2, 2, 1)), "layer 1 does not fit"),
    "shape of a kernel": (lambda: System([EXACT]).check((2, 2, 1)), "layer 1 does not fit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_systems_that_cannot_be(name):
    make, words = REFUSED[name]
    with pytest.raises(InvalidSpec, match=words):
        make()


@pytest.mark.parametrize("train_layers", [1, 2])
def test_decorrelation_that_a_training_admits(train_layers):
    layers = make_spec(), make_spec(decorrelation=0.25), make_spec(decorrelation=0.25)
    system = trained(*layers, train_layers=train_layers)
    assert {layer.decorrelation for layer in system.trained_layers} == {0.0}


def test_classifiers_of_all_kinds():
    assert System([NETWORK], "none").make_classifier(0) is None
    assert isinstance(System([NETWORK]).make_classifier(0), ckncuda.Ridge)
    assert System([NETWORK], "softmax", {"seed": 3}).make_classifier(0).seed == 3
    ridge = System([EXACT], "", {"weights": [1.0]}).make_classifier(4)
    assert isinstance(ridge, ckncuda.GramRidge)
    assert (ridge.weights, ridge.seed) == ([1.0], 4)


@pytest.mark.parametrize("name", ["ridge", "kernel-ridge", "nystrom-ridge"])
def test_held_out_images_choose_where_a_file_says_so(toml, name):
    """It needs images that are held out, stands in plain data, and the model's report says it."""
    table = f'{LAYER}[classifier]\nname="{name}"\nchoose="held-out"\n'
    system = System.from_toml(toml(f"{table}validation=0.25\n"))
    assert system == System.from_dict(json.loads(json.dumps(system.to_dict())))
    assert str(system).endswith("choose held-out validation 0.25")
    images, labels = stripes(60)
    model = ckncuda.fit(images, labels, system=system, backend="numpy")
    assert re.match("15 images held out of 60; .* chosen on them, then all 60", model.report["validation"])
    assert "leave-one-out" not in model.report["validation"]
    with pytest.raises(InvalidSpec, match="choose is .*, but validation is 0: .* give validation=0.1"):
        System.from_toml(toml(table))
    System.from_toml(toml(f"{table}validation=0.1\n"))


def test_the_same_preprocessing_for_all():
    system = System([NETWORK, NETWORK]).preprocessed([Standardize()])
    assert [encoder.preprocessing for encoder in system.encoders] == [(Standardize(),)] * 2


def test_one_line():
    flipped = EncoderSpec(NETWORK.layers, [LocalWhitening(), ZCA(0.1)], Symmetries(flip=True, shift=2))
    assert str(System([flipped], "kernel-ridge", {"kernel": "poly", "degree": 2})) == (
        "4 3x3 sigma 0.6 /2; local_whitening; zca epsilon 0.1; flip; shift 2; kernel-ridge poly degree 2"
    )
    kernel = ExactEncoderSpec(ExactKernel([RELU_SPEC, RELU_SPEC], tangent=True, flip=True), None, 9)
    assert str(System([kernel, EXACT], "", {"regularization": 0.1})) == (
        "tangent kernel; 3x3 arccos1 /3 → 3x3 arccos1 /3; auto; flip; 9 landmarks + "
        "exact kernel; 3x3 sigma 0.6 /2; gram-ridge regularization 0.1"
    )


kernels = st.one_of(
    st.floats(0.1, 2).map(lambda sigma: Exponential(sigma=sigma)),
    st.integers(1, 3).map(lambda degree: Polynomial(degree=degree)),
    st.just(ArcCosine(1)),
)
layers = st.builds(
    make_spec,
    filters=st.sampled_from([1, 1, 8]),
    patch=st.one_of(st.integers(1, 3), st.tuples(*[st.integers(1, 3)] * 2)),
    subsampling=st.integers(1, 2),
    kernel=kernels,
    alignment=st.sampled_from(["corner", "centered"]),
    epsilon=st.sampled_from([1e-3, 1e-2]),
)
preprocessing = st.one_of(
    st.none(), st.lists(st.sampled_from([Standardize(), LocalWhitening(5)]), max_size=2)
)
networks = st.builds(
    EncoderSpec,
    st.lists(layers, min_size=1, max_size=3),
    preprocessing,
    st.builds(Symmetries, flip=st.booleans(), shift=st.integers(0, 2)),
)
exact_kernels = st.builds(
    ExactEncoderSpec,
    st.builds(ExactKernel, st.lists(layers, min_size=1, max_size=3), flip=st.booleans()),
    preprocessing,
    st.sampled_from([None, 50]),
)
classifiers = st.sampled_from(
    [("ridge", {}), ("kernel-ridge", {"kernel": "poly", "degree": 2, "offset": 1.0}), ("none", {})]
)
systems = st.one_of(
    st.builds(
        lambda encoders, classifier, patches: System(encoders, *classifier, patches),
        st.lists(networks, min_size=1, max_size=3),
        classifiers,
        st.integers(1, 10**6),
    ),
    st.builds(
        lambda encoders, options: System(encoders, "", options),
        st.lists(exact_kernels, min_size=1, max_size=3),
        st.sampled_from([{}, {"regularization": 0.1}]),
    ),
)


@hypothesis.given(systems)
def test_plain_data_and_back(system):
    stored = json.loads(json.dumps(system.to_dict()))
    assert System.from_dict(stored) == system
    for kernel in system.kernels:
        assert ExactKernel.from_dict(kernel.to_dict()) == kernel
        assert "filters" not in str(kernel.description())


def test_a_kernel_that_is_given_as_such_is_stored_by_its_name():
    system = System([NETWORK], "kernel-ridge", {"kernel": Polynomial(degree=2)})
    options = system.to_dict()["options"]
    assert options == {"kernel": "poly", "degree": 2, "offset": 0.0}
    assert System([NETWORK], "kernel-ridge", options).make_classifier(0).kernel == Polynomial(degree=2)


@pytest.mark.parametrize("classifier", [None, "exact"])
def test_keys_of_plain_data(classifier):
    """Journals of searches are read by later versions."""
    system = System([NETWORK if classifier is None else EXACT])
    of_encoder = ["layers", "preprocessing", "symmetries"]
    if classifier == "exact":
        of_encoder = ["layers", "tangent", "flip", "preprocessing", "landmarks"]
    assert list(system.to_dict()) == [*of_encoder, "classifier", "options", "patches"]
    assert list(System([*system.encoders] * 2).to_dict()) == ["encoders", "classifier", "options", "patches"]
