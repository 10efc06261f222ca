"""The texts of --layer, --preprocess and --kernel, as people type them."""

import re

import pytest

from ckncuda.cli.system_options import SystemOptions, parse_layer
from ckncuda.errors import InvalidSpec

LAYER = "filters=64,patch=3,subsampling=2,kernel=exp,sigma=0.6"
PLAIN = parse_layer(LAYER)

SAME = [
    "filters = 64 , patch = 3, subsampling=2, kernel= exp,\tsigma =0.6",
    f"{LAYER},",
    f",,{LAYER}",
    "filters=64,patch=3:3,subsampling=2,sigma=.6",
    "filters=+64,patch=3,subsampling=2,sigma=6e-1",
]

REFUSED = {
    "filters=64,patch=3,subsampling=2,sigma=0,6": "'6' is not of the form name=value; decimals have a point",
    "filters=1e3,patch=3,subsampling=2,sigma=1": "filters is 1000.0; it must be a whole number",
    "filters=\uff16\uff14,patch=3,subsampling=2,sigma=1": "filters is '\uff16\uff14'; it must be ",
    "filters=6_4,patch=3,subsampling=2,sigma=1": "filters is '6_4'; it must be a whole number",
    f"{LAYER}, sigma=0.7": "sigma is given twice",
    f"{LAYER},kernel=poly": "kernel is given twice",
    f"filters={'9' * 400},patch=3,subsampling=2,sigma=1": "filters is inf; it must be a whole number",
    f"filters={'9' * 9999},patch=3,subsampling=2,sigma=1": "filters is inf; it must be a whole number",
    "filters=64,patch=3,subsampling=2,sigma=nan": "sigma is nan; it must be a positive number",
    "filters=64,patch=3,subsampling=2,sigma=true": "sigma is 'true'; it must be a positive number",
    "filters=64,patch=::,subsampling=2,sigma=1": "patch is ('', '', ''); it must be a whole number",
    "filters=64,patch=3,subsampling=2,=3": "'=3' is not of the form name=value",
    f"{LAYER},\x1b[2J=1": r"has no option '\x1b[2J'",
    "filters=64;patch=3;subsampling=2;sigma=0.6": "has several =; separate name=value pairs by commas",
    "filters=64 patch=3 subsampling=2 sigma=0.6": "has several =; separate name=value pairs by commas",
    "filters=64,patch=3,subsampling=2,sigm=0.6": "one of the two; there is no option 'sigm'",
    "filters=64,patch=3,subsampling=2,kernel=rbf,sigma=0.6": "there is no kernel 'rbf'; the kernels are exp",
    f"{LAYER},{'x' * 9999}": "is not of the form name=value",
}


@pytest.mark.parametrize("text", SAME)
def test_layers_that_are_the_same(text):
    assert parse_layer(text) == PLAIN


@pytest.mark.parametrize("text", REFUSED)
def test_layers_that_are_refused(text):
    with pytest.raises(InvalidSpec, match=re.escape(REFUSED[text])) as refused:
        parse_layer(text)
    assert len(str(refused.value)) < 700
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preprocess": ("zca,epsilon=0,1",)}, "decimals have a point"),
        ({"preprocess": ("zca,name=standardize",)}, "the name stands first"),
        ({"preprocess": ("zca,epsilon=true",)}, "epsilon is 'true'"),
        ({"preprocess": ("auto", "zca")}, "goes with no other"),
        ({"preprocess": ("",)}, "there is no preprocessing ''"),
        (
            {"classifier": "kernel-ridge", "classifier_options": {"kernel": "poly,degree=1e99"}},
            "degree is 1e",
        ),
        (
            {"classifier": "kernel-ridge", "classifier_options": {"kernel": "poly,deg=2"}},
            "takes degree, offs",
        ),
        ({"classifier": "kernel-ridge", "classifier_options": {"kernel": "exp,kernel=poly"}}, "given twice"),
        ({"classifier": "kernel-ridge", "classifier_options": {"kernel": ""}}, "not of the form"),
    ],
)
def test_other_texts_that_are_refused(options, message):
    if "kernel" in options:
        options = {"classifier": "kernel-ridge", "classifier_options": options}
    with pytest.raises(InvalidSpec, match=message):
        SystemOptions(layer=(LAYER,), **options).of_networks(100, (16, 16, 3)).check((16, 16, 3))


def test_a_long_text_takes_no_time():
    text = "9" * 60_000  # quadratic time would be minutes
    with pytest.raises(InvalidSpec, match="sigma is "):
        parse_layer(f"filters=64,patch=3,subsampling=2,sigma={text}x")
