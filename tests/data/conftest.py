"""Writes pictures, parquet files and folders of both."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="session")
def png():
    """A gray picture as the bytes of a PNG file."""

    def encode(shade=100, size=8):
        buffer = io.BytesIO()
        Image.new("RGB", (size, size), (shade, shade, shade)).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def write():
    """Writes a parquet file of images and labels."""

    def write_table(file, images, labels, columns=("image", "label"), features=None):
        wrapped = images and isinstance(images[0], dict)
        table = pa.table(
            {
                columns[0]: pa.array(images, type=HUGGING_FACE if wrapped else None),
                columns[1]: pa.array(labels),
            }
        )
        if features is not None:
            metadata = {"info": {"features": features}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
        pq.write_table(table, file)
        return file

    return write_table


@pytest.fixture(scope="session")
def shades():
    """The gray values of a data set's pictures."""

    def read(data):
        return [int(batch[0, 0, 0]) for batch in data.load()[0]]

    return read


@pytest.fixture(scope="session")
def parquet_folder(png, write):
    """Writes a folder of parquet files, some sets of two classes."""

    def build(folder, parts=("a", "b"), train=50, val=10):
        folder.mkdir()
        for k, part in enumerate(parts):
            if train:
                write(folder / f"{part}-train.parquet", [png(j) for j in range(train)], [j % 2 for j in range(train)])
            write(folder / f"{part}-val.parquet", [png(100 + k) for _ in range(val)], [j % 2 for j in range(val)])
        return folder

    return build


@pytest.fixture(scope="session")
def image_folder(png):
    """Writes one sub-folder of pictures a class."""

    def build(folder, count=5, names=("fig", "pear")):
        for k, name in enumerate(names):
            (folder / name).mkdir(parents=True)
            for j in range(count):
                (folder / name / f"{j}.png").write_bytes(png(100 * k + j))
        return folder

    return build
