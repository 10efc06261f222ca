"""Systems as people write them: TOML files, and texts of the command line."""

from fuzz.corpus import Seed, one

NETWORK = """\
# a network of two layers
[[layers]]
filters = 64
patch = [3, 3]
subsampling = 2
kernel = "exp"
sigma = 0.6

[[layers]]
filters = 128
patch = 2
subsampling = 2
kernel = "series"
coefficients = [0.25, 0.5, 0.25]
padding = "valid"
pooling = "average"
decorrelation = 0.25

[[preprocessing]]
name = "zca"
epsilon = 0.03

[symmetries]
flip = true
shift = 1

[classifier]
name = "kernel-ridge"
kernel = "poly"
degree = 2
offset = 1.0
regularization = "auto"
"""
ENSEMBLE = """\
[[encoders]]
layers = [{filters = 16, patch = 3, subsampling = 4, kernel = "arccos1"}]
preprocessing = [{name = "local_whitening", patch = 3, power = 0.25}, {name = "standardize"}]

[[encoders]]
layers = [{filters = 16, patch = 5, subsampling = 4, kernel = "exp", quantile = 0.1}]
symmetries = {flip = false}

[classifier]
name = "softmax"
validation = 0.2
"""
EXACT = """\
tangent = true
flip = false
[exact]
[[layers]]
patch = 3
subsampling = 2
kernel = "arccos1"
norm_floor = 1e-5
[[layers]]
patch = 2
subsampling = 2
kernel = "arccos1"
alignment = "centered"
"""

LAYERS = (
    "filters=64,patch=3,subsampling=2,kernel=exp,sigma=0.6",
    "filters=8,patch=3:2,subsampling=1,kernel=series,coefficients=0.25:0.5:0.25,padding=valid",
    "filters=4,patch=2,subsampling=2,kernel=poly,degree=3,offset=1,pooling=average,epsilon=1e-3",
    "filters=4,patch=3,subsampling=2,kernel=exp,quantile=0.1,scale=floored_norm,decorrelation=0.25",
    "filters=4,patch=1,subsampling=1,kernel=inverse_polynomial,whitening=root,norm_floor=1e-5,alignment=valid",
)
PREPROCESSING = ("zca,epsilon=0.03", "local_whitening,patch=3,power=0.25", "standardize", "none", "auto")

WORDS = tuple(
    word.encode()
    for word in (
        *(
            "layers",
            "encoders",
            "preprocessing",
            "symmetries",
            "classifier",
            "exact",
            "tangent",
            "flip",
            "shift",
        ),
        *("filters", "patch", "subsampling", "kernel", "sigma", "quantile", "epsilon", "norm_floor", "scale"),
        *(
            "padding",
            "pooling",
            "alignment",
            "whitening",
            "decorrelation",
            "coefficients",
            "degree",
            "offset",
        ),
        *(
            "exp",
            "poly",
            "arccos0",
            "arccos1",
            "linear",
            "series",
            "inverse_polynomial",
            "zca",
            "standardize",
            "none",
            "auto",
        ),
        *(
            "ridge",
            "softmax",
            "squared-hinge",
            "nystrom-ridge",
            "gram-ridge",
            "name",
            "landmarks",
            "seed",
            "loss",
        ),
        *(
            "regularization",
            "validation",
            "optimizer",
            "max_iterations",
            "1979-05-27T07:32:00Z",
            "[[layers]]\n",
        ),
        *("=", "'''", '"""', "[" * 2000, "{a=" * 500, "a." * 1000, "0.6,sigma=", "1:2:3", "::", "x" * 3000),
    )
)


def toml() -> list[Seed]:
    """Return TOML files of networks, an ensemble and exact kernels."""
    plain = [one("net.toml", text.encode()) for text in (NETWORK, ENSEMBLE, EXACT)]
    return [*plain, one("net.toml", EXACT.replace("true", "false").encode(), method="exact")]


def options() -> list[Seed]:
    """Return texts of ``--layer`` and ``--preprocess``."""
    layers = [one("text", text.encode(), option="layer") for text in LAYERS]
    return layers + [one("text", text.encode(), option="preprocess") for text in PREPROCESSING]
