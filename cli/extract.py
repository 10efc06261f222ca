"""`ckn extract`: features of images, streamed to a file."""

import click

from ckncuda.backend import Backend
from ckncuda.data import feature_writer
from ckncuda.data.writers import check_features_path
from ckncuda.given.parameters import counted

from . import options


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-o", "--output", required=True, help="FEATURES.npy or FEATURES.npz.")
@options.images
@options.backend
@options.printed
def extract(
    model: str, images: str, output: str, how: options.ImageOptions, engine: Backend
) -> options.Printed:
    """Write the features of IMAGES, float32 [n, d], one row an image.

    Of a model that --method exact has fitted they are the kernels with its training images, or landmarks.

    The file is written as the features are computed: memory does not grow with the number of images.

    \b
    Example:
        ckn extract model.ckn Xte.csv -o features.npy
    """
    check_features_path(output)
    options.check_outputs([output], [model, images])
    with options.reading(model, images, how, "Extracting features of") as (loaded, source, report):
        loaded.check_images(source)
        n, d = len(source), loaded.features_of(source.shape[1:])
        blocks = loaded.feature_blocks(source, backend=engine, progress=report)
        with report.stage("writing"), feature_writer(output, n, d) as writer:
            for _, block in blocks:
                writer.write(block)
                del block  # while the next one is made, this one need not be there
    seconds = options.report_seconds(report)
    result = {"features": output, "n_images": n, "n_features": d, "seconds": seconds}
    wrote = f"wrote {output}: {counted(n, 'image')}, {d} features each"
    return result, [options.shown_seconds(seconds), wrote]
