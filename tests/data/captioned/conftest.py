"""Writes captioned pictures as CSV, tar and parquet files, and lists what a stream makes of them."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CAPTIONS = ["a banana on a plate", "a red car", "two Bananas", "a red car", "bandana", "a dog, asleep"]


@pytest.fixture
def table(tmp_path, png):
    """Writes pictures of shades 10, 20, ... and their captions as open_clip's CSV."""

    def build(captions=CAPTIONS, separator="\t", header=("filepath", "title"), name="pairs.csv"):
        lines = [separator.join(header)]
        for k, caption in enumerate(captions):
            (tmp_path / f"{k}.png").write_bytes(png(10 * (k + 1)))
            lines.append(separator.join((f"{k}.png", f'"{caption}"')))
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return build


@pytest.fixture
def shard(tmp_path):
    """Writes a tar file of named contents."""

    def build(members, name="shard-000.tar", mode="w"):
        with tarfile.open(tmp_path / name, mode) as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return tmp_path / name

    return build


@pytest.fixture
def captioned_parquet(tmp_path):
    def build(images, captions, columns=("image", "caption"), name="pairs.parquet", group=2):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if isinstance(images[0], dict) else None
        table = pa.table({columns[0]: pa.array(images, type=kind), columns[1]: pa.array(captions)})
        pq.write_table(table, tmp_path / name, row_group_size=group)
        return tmp_path / name

    return build


@pytest.fixture
def whole():
    """Row, shade and caption of one pass of a stream, by row."""

    def read(stream):
        batch = stream.batch(0, stream.length)
        return sorted(zip(batch.rows.tolist(), batch.images[:, 0, 0, 0].tolist(), batch.captions, strict=True))

    return read


@pytest.fixture
def everything():
    """What ``whole`` gives of pictures that were all read."""

    def expected(captions=CAPTIONS):
        return [(k, 10 * (k + 1), caption) for k, caption in enumerate(captions)]

    return expected
