import pytest

from clip_decomp.errors import DataError
from clip_decomp.texts import TextPool, read_pool, text_pool, world_pool


@pytest.fixture
def pool():
    return TextPool(("Something red", "A zebra", "A red object", "<b>Bold</b>"), ("color", "animal", "color", "style"))


@pytest.fixture
def read(tmp_path):
    def write_and_read(content):
        file = tmp_path / "pool.txt"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_pool(file)

    return write_and_read


def test_one_property(pool):
    assert pool.indices("color") == [0, 2]
    assert pool.of("color") == TextPool(("Something red", "A red object"), ("color", "color"))
    assert pool.of("animal", "color").texts == ("Something red", "A zebra", "A red object")
    assert pool.property_names == ("color", "animal", "style")


def test_no_such_property(pool):
    with pytest.raises(DataError, match=r"no property 'colour'.*color"):
        pool.of("colour")
    with pytest.raises(DataError, match="one text or more"):
        pool.of()


def test_frame_and_html(pool):
    frame = pool.to_frame()
    assert list(frame.columns) == ["property", "text"]
    assert tuple(frame.text) == pool.texts
    html = pool._repr_html_()
    assert "<td>color</td>\n      <td>2</td>\n      <td>Something red</td>" in html
    assert "&lt;b&gt;Bold&lt;/b&gt;" in html


@pytest.mark.parametrize(
    ("texts", "properties", "message"),
    [
        ((), (), "needs one text"),
        (("a", "b"), ("x",), "1 properties for 2 texts"),
        (("a", " "), ("x", "x"), "one line of words"),
        (("a\nb",), ("x",), "one line of words"),
        (("a\tb",), ("x",), "one line of words"),
        (("a",), ("",), "one line of words"),
        (("A cat", "a  CAT"), ("x", "y"), "'a cat' occurs 2 times"),
    ],
)
def test_bad_pools(texts, properties, message):
    with pytest.raises(DataError, match=message):
        TextPool(texts, properties)


@pytest.mark.parametrize("make", [text_pool, world_pool])
def test_round_trip(make, tmp_path):
    file = make().save(tmp_path / "new" / "pool.tsv")
    assert read_pool(file) == make()
    assert [each.name for each in file.parent.iterdir()] == ["pool.tsv"]


def test_a_pool_without_properties_is_saved_as_bare_lines(tmp_path):
    file = TextPool(("A cat", "Ein Café"), ("text", "text")).save(tmp_path / "pool.txt")
    assert file.read_bytes() == "A cat\nEin Café\n".encode()
    assert read_pool(file).properties == ("text", "text")


def test_any_file_of_lines(read):
    pool = read("\ufeffA cat\r\n\r\n  a   cat \r\nA dog\n\n\tA bird\u2028flying\t\nA CAT")
    assert pool.texts == ("A cat", "A dog", "A bird flying")
    assert pool.property_names == ("text",)
    assert (pool.blank_lines, pool.repeated_lines) == (2, 2)


def test_lines_with_properties(read):
    pool = read("color\tSomething red\n\nanimal \t A zebra\nother\tsomething red\n")
    assert pool == TextPool(("Something red", "A zebra"), ("color", "animal"))
    assert (pool.blank_lines, pool.repeated_lines) == (1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no text"),
        ("\n \n\t\n", "holds no text"),
        ("color\tSomething red\nA zebra\n", "line 2 has 0 tabs"),
        ("color\tred\nanimal\tzebra\t3\n", "line 2 has 2 tabs"),
        ("A zebra".encode("utf-16"), "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not UTF-8"),
        (b"A zebra\0\0", "binary"),
    ],
)
def test_bad_files(read, content, message):
    with pytest.raises(DataError, match=rf"pool\.txt.*{message}.*one description a line"):
        read(content)


def test_what_is_not_a_file(tmp_path):
    with pytest.raises(DataError, match=r"no file .*missing\.txt"):
        read_pool(tmp_path / "missing.txt")
    with pytest.raises(DataError, match="is not a file"):
        read_pool(tmp_path)


def test_a_gigantic_file(tmp_path):
    file = tmp_path / "large.txt"
    with file.open("wb") as stream:
        stream.truncate((64 << 20) + 1)
    with pytest.raises(DataError, match=r"large\.txt has 64 MiB, more than"):
        read_pool(file)
