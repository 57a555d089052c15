"""The layers of a running engine as text."""

from alexnet_deploy.core.process.say import counted
from alexnet_deploy.engines.proof.layers import LayerError, LayerTable
from alexnet_deploy.inspection.table import numbers, text_table, words


def layer_table(table: LayerTable) -> str:
    """Return the layers of one engine as a table, with one line above it."""
    has_network = any(row.network is not None for row in table.rows)
    columns = [
        words("layer", (row.name for row in table.rows)),
        words("kind", (row.kind for row in table.rows)),
        numbers("shape", (" x ".join(map(str, row.shape)) for row in table.rows)),
        words("numbers", (row.numbers for row in table.rows)),
        *([numbers("against network", (_layer_error(row.network) for row in table.rows))] if has_network else []),
        numbers("own error", (_layer_error(row.own) for row in table.rows)),
        numbers("limit", (_layer_error(row.limit) for row in table.rows)),
    ]
    images = counted(table.num_images, "golden image")
    verdicts = ["" if row.passed else "FAILED" for row in table.rows]
    lines = text_table(columns, verdicts, width=None, least_important=())
    return f"{table.engine}, {table.precision}, {table.arithmetic}: relative errors (RMS, max) on {images}\n{lines}"


def _layer_error(error: LayerError | None) -> str:
    return "-" if error is None else f"{error.rms:.1e} {error.max:.1e}"
