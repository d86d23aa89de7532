"""Files whose headers say one thing and whose pixels another: read right, or refused, or warned of.

The oracle is the picture that was written, by the formulas of the standards.
"""

import re
import struct
import warnings
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from cxrkit.data import image_types, jpeg, preprocessing
from cxrkit.data.images import ImageError, load_image
from tests.fakes import radiograph_files as files
from tests.fakes import trees

GREY = trees.chest(3, True, (96, 80))[0]
DEEP = GREY.astype(np.uint16) * 16
pytestmark = pytest.mark.filterwarnings("ignore")
needs_dicom = pytest.mark.skipif(not find_spec("pydicom"), reason="needs cxrkit[dicom]")


@pytest.fixture(params=["simplejpeg", "opencv"])
def listener(request, monkeypatch):
    """Both ways to hear libjpeg."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(jpeg, "remark", jpeg._remark_of_opencv)
    return request.param


def dicom(tmp_path, pixels, **tags):
    return load_image(files.write_dicom(tmp_path / "a.dcm", pixels, **tags))


def same_picture(image, wanted, tolerance=1):
    """Whether an image shows the wanted grey values, whatever its depth."""
    shown = preprocessing.to_uint8(image.pixels).astype(int)
    return np.abs(shown - preprocessing.to_uint8(wanted)).max() <= tolerance


# PNG, TIFF, JPEG


@pytest.mark.parametrize("alpha", [False, True])
def test_colour_of_16_bits_keeps_its_depth(tmp_path, alpha):
    channels = [DEEP] * 3 + [np.full_like(DEEP, 65535)] * alpha
    cv2.imwrite(str(tmp_path / "a.png"), cv2.merge(channels))
    cv2.imwrite(str(tmp_path / "a.tif"), cv2.merge(channels))
    for name in ("a.png", "a.tif"):
        image = load_image(tmp_path / name)
        np.testing.assert_array_equal(image.pixels, DEEP)
        assert image.bits == 16


def test_luminance_of_16_bits_is_that_of_8(tmp_path):
    blue, green, red = (np.roll(DEEP, k, 1) for k in (0, 5, 11))
    cv2.imwrite(str(tmp_path / "a.png"), cv2.merge([blue, green, red]))
    wanted = np.rint(0.299 * red + 0.587 * green + 0.114 * blue)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").pixels, wanted)


def test_grey_and_alpha_of_16_bits_keeps_its_depth(tmp_path):
    alpha = np.full_like(DEEP, 65535)
    alpha[:10] = 0
    (tmp_path / "a.png").write_bytes(files.grey_alpha_png(DEEP, alpha))
    wanted = np.where(alpha > 0, DEEP, 0)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").pixels, wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colour_is_turned_as_pillow_turns(tmp_path, orientation):
    from PIL import Image as Raster
    from PIL import ImageOps

    from cxrkit.data import rasters

    image = Raster.fromarray(GREY)
    image.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(rasters._turn(GREY, orientation), wanted)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_white_is_zero(tmp_path, kind):
    pixels = GREY.astype(kind)
    for photometric in (0, 1):
        content = files.tiff(pixels, t262=photometric)
        if kind == np.uint8 and photometric == 0:  # Pillow inverts 8 bits as it writes
            continue
        # Pillow writes its own photometric tag: set it in the file
        place = content.index(struct.pack("<HHI", 262, 3, 1)) + 8
        content = content[:place] + struct.pack("<H", photometric) + content[place + 2 :]
        (tmp_path / "a.tif").write_bytes(content)
        wanted = GREY if photometric else 255 - GREY
        assert same_picture(load_image(tmp_path / "a.tif"), wanted)


def test_a_wrong_checksum_is_refused(tmp_path):
    whole = cv2.imencode(".png", GREY)[1].tobytes()
    for place in (40, len(whole) // 2, len(whole) - 20):
        torn = bytearray(whole)
        torn[place] ^= 4
        (tmp_path / "a.png").write_bytes(torn)
        with pytest.raises(ImageError, match="a.png: .*(checksum|cut off)"):
            load_image(tmp_path / "a.png")


def test_a_torn_jpeg_is_refused(tmp_path, listener):
    """Every file of which libjpeg says that it is torn; some damage no library can see."""
    whole = cv2.imencode(".jpg", cv2.resize(GREY, (320, 384)))[1].tobytes()
    start, rng, refused = whole.index(b"\xff\xda") + 20, np.random.default_rng(0), 0
    for _ in range(40):
        torn = bytearray(whole)
        for place in rng.integers(start, len(whole) - 4, 4):
            torn[place] = rng.integers(0, 255)
        (tmp_path / "a.jpg").write_bytes(torn)
        words = jpeg.remark(bytes(torn))
        try:
            image = load_image(tmp_path / "a.jpg")
        except ImageError as error:
            refused += 1
            assert words is None or words in str(error)
            continue
        assert words is None or image.warnings
    assert refused >= 10


def test_stray_bytes_are_warned_of_and_the_picture_is_kept(tmp_path, listener):
    whole = cv2.imencode(".jpg", GREY)[1].tobytes()
    place = whole.index(b"\xff\xc4")  # between two segments of the head
    (tmp_path / "a.jpg").write_bytes(whole[:place] + b"\0\0\0" + whole[place:])
    with pytest.warns(UserWarning, match="a.jpg: libjpeg says .*extraneous bytes"):
        image = load_image(tmp_path / "a.jpg")
    decoded = cv2.imdecode(np.frombuffer(whole, np.uint8), 0)
    np.testing.assert_array_equal(image.pixels, decoded)


def test_an_image_over_the_limit_is_refused_in_every_container(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), GREY)
    cv2.imwrite(str(tmp_path / "a.jpg"), GREY)
    cv2.imwrite(str(tmp_path / "a.tif"), GREY)
    files.write_dicom(tmp_path / "a.dcm", DEEP)
    files.write_deflated(tmp_path / "b.dcm", DEEP)
    monkeypatch.setattr(image_types, "PIXEL_LIMIT", GREY.size - 1)
    for name in ("a.png", "a.jpg", "a.tif", "a.dcm", "b.dcm"):
        with pytest.raises(ImageError, match=rf"{name}: 80x96 px is over the limit of {7679:,}"):
            load_image(tmp_path / name)


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    with open(tmp_path / "a.dcm", "wb") as f:
        f.write(b"\0" * 200)
        f.truncate(2**30 + 1)  # holds no blocks on the disk
    with pytest.raises(ImageError, match="over the limit of 1,073,741,824"):
        load_image(tmp_path / "a.dcm")


# DICOM


@needs_dicom
def test_a_deflated_bomb_is_refused_before_it_expands(tmp_path):
    import tracemalloc

    pixels = np.zeros((6000, 6000), np.uint16)
    path = files.write_deflated(tmp_path / "a.dcm", pixels, Rows=16, Columns=16)
    files.write_deflated(tmp_path / "b.dcm", pixels, Rows=60000, Columns=6000)
    del pixels
    assert path.stat().st_size < 200_000
    for name, words in (("a.dcm", "expands to more than"), ("b.dcm", "over the limit")):
        tracemalloc.start()
        with pytest.raises(ImageError, match=words):
            load_image(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
        tracemalloc.stop()


@needs_dicom
def test_values_beyond_the_stated_bits_are_kept(tmp_path):
    high = GREY.astype(np.uint16) * 12  # 11 bits end at 2047
    assert 2047 < high.max() < 4096
    image = dicom(tmp_path, high, BitsStored=11)
    np.testing.assert_array_equal(image.pixels, high)
    assert "header states 11 bits, the values have 12" in image.warnings[0]


@needs_dicom
def test_an_overlay_in_the_upper_bits_is_left_out(tmp_path):
    overlay = np.zeros_like(DEEP)
    cv2.putText(shape := np.zeros_like(GREY), "LL", (5, 60), 0, 2, 255, 3)
    overlay[shape > 0] = 1 << 15
    image = dicom(tmp_path, DEEP | overlay, BitsStored=12)
    np.testing.assert_array_equal(image.pixels, DEEP)
    assert "bits beyond the 12 of a value were left out" in image.warnings[0]


@needs_dicom
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_deep_colour_of_dicom_keeps_its_depth(tmp_path, bits):
    pixels = GREY.astype(np.uint16) * 2 ** (bits - 8)
    image = dicom(tmp_path, np.stack([pixels] * 3, -1), BitsStored=bits)
    np.testing.assert_array_equal(image.pixels, pixels)


@needs_dicom
@pytest.mark.parametrize(
    "tags, words",
    [
        ({"WindowCenter": 2000, "WindowWidth": 0}, "WindowWidth 0 is not valid"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, ""),
        ({"RescaleSlope": "0", "RescaleIntercept": "5"}, "RescaleSlope 0 is not valid"),
        ({"WindowCenter": None, "WindowWidth": None}, ""),
        ({"WindowCenter": 90000, "WindowWidth": 10}, "shows nothing"),
        ({"PixelPaddingValue": None}, ""),
    ],
    ids=["window 0", "empty rescale", "slope 0", "empty window", "blind window", "empty padding"],
)
def test_empty_and_impossible_values_lose_no_film(tmp_path, tags, words):
    image = dicom(tmp_path, DEEP, BitsStored=12, **tags)
    np.testing.assert_array_equal(image.pixels, DEEP)
    assert bool(image.warnings) == bool(words) and words in "".join(image.warnings)


@needs_dicom
@pytest.mark.parametrize(
    ("written", "spacing"),
    [
        (b"0.125\\0.25", (0.125, 0.25)),
        (b"0.1\x905\\0.25", None),
        (b"0.125\\-.25", None),
        (b"0.125\\nan ", None),
        (b"0.12500000", None),
        (b"          ", None),
    ],
)
def test_a_spacing_that_is_no_pair_of_lengths_is_said_and_not_used(tmp_path, written, spacing):
    """Bytes of the header are replaced: pydicom writes no such value."""
    path = files.write_dicom(tmp_path / "a.dcm", DEEP, PixelSpacing=[0.125, 0.25])
    content = path.read_bytes()
    assert content.count(b"0.125\\0.25") == 1 and len(written) == 10
    path.write_bytes(content.replace(b"0.125\\0.25", written))
    image = load_image(path)
    np.testing.assert_array_equal(image.pixels, DEEP)
    assert image.spacing == spacing
    said = "no pair of positive numbers" in "".join(image.warnings)
    assert said == (spacing is None and bool(written.strip()))


@needs_dicom
def test_an_unknown_voi_function_is_linear(tmp_path):
    window = {"WindowCenter": 2000, "WindowWidth": 1500, "BitsStored": 12}
    image = dicom(tmp_path, DEEP, VOILUTFunction="LOG", **window)
    shown = np.clip((DEEP - 1999.5) / 1499 + 0.5, 0, 1)
    np.testing.assert_array_equal(image.pixels, np.rint(shown * 65535))
    assert "VOILUTFunction is unknown" in image.warnings[0]


@needs_dicom
@pytest.mark.parametrize("how", ["LINEAR_EXACT", "SIGMOID"])
def test_the_other_voi_functions(tmp_path, how):
    window = {"WindowCenter": 2000, "WindowWidth": 1500, "BitsStored": 12}
    image = dicom(tmp_path, DEEP, VOILUTFunction=how, **window)
    deep = DEEP.astype(float)
    exact = np.clip((deep - 2000) / 1500 + 0.5, 0, 1)
    shown = exact if how == "LINEAR_EXACT" else 1 / (1 + np.exp(-4 * (deep - 2000) / 1500))
    assert np.abs(image.pixels - shown * 65535).max() <= 1


@needs_dicom
@pytest.mark.parametrize("kind", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_luts_of_any_depth(tmp_path, kind, bits):
    import pydicom

    values = (np.arange(4096) // 16) ** 2 // 2 ** (16 - bits)
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [4096, 0, bits]
    lut.ModalityLUTType = "US"
    lut.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    image = dicom(tmp_path, DEEP, BitsStored=12, **{kind: pydicom.Sequence([lut])})
    np.testing.assert_array_equal(image.pixels, values[DEEP])


@needs_dicom
def test_a_range_of_padding_is_background(tmp_path):
    padded = DEEP.astype(np.int16) + 100
    padded[:, :10] = -2000 + np.arange(10)
    tags = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1980}
    image = dicom(tmp_path, padded, **tags)
    assert (image.pixels[:, :10] == image.pixels.min()).all()
    np.testing.assert_array_equal(
        np.diff(image.pixels[:, 10:].astype(int)), np.diff(DEEP[:, 10:].astype(int))
    )


@needs_dicom
def test_monochrome1_with_a_window_is_the_same_picture_without(tmp_path):
    """Window 128/256 shows 8 bits as they are (PS3.3 C.11.2.1.2.1: x / 255)."""
    tags = {"PhotometricInterpretation": "MONOCHROME1"}
    plain = dicom(tmp_path, 255 - GREY, **tags)
    window = dicom(tmp_path, 255 - GREY, WindowCenter=128, WindowWidth=256, **tags)
    np.testing.assert_array_equal(plain.pixels, GREY)
    np.testing.assert_array_equal(window.pixels, GREY)


@needs_dicom
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_an_inverse_presentation_is_inverted_once(tmp_path, photometric):
    tags = {"PhotometricInterpretation": photometric, "PresentationLUTShape": "INVERSE"}
    np.testing.assert_array_equal(dicom(tmp_path, 255 - GREY, **tags).pixels, GREY)


@needs_dicom
def test_jpeg_of_12_bits_is_decoded(tmp_path):
    pytest.importorskip("gdcm")
    smooth = cv2.GaussianBlur(DEEP, (0, 0), 2)
    source = files.write_dicom(tmp_path / "a.dcm", smooth, BitsStored=12)
    path = files.compress(source, tmp_path / "b.dcm", "JPEGExtendedProcess2_4")
    assert np.abs(load_image(path).pixels.astype(int) - smooth).max() <= 8


@needs_dicom
def test_a_compressed_file_that_is_cut_off_says_so(tmp_path):
    pytest.importorskip("gdcm")
    source = files.write_dicom(tmp_path / "a.dcm", DEEP, BitsStored=12)
    whole = files.compress(source, tmp_path / "b.dcm", "JPEG2000Lossless").read_bytes()
    (tmp_path / "c.dcm").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(ImageError, match="c.dcm: .*(cut off|damaged)") as error:
        load_image(tmp_path / "c.dcm")
    assert "install" not in str(error.value)


@needs_dicom
def test_no_error_advises_to_install_what_is_there(tmp_path, monkeypatch):
    pytest.importorskip("gdcm")
    source = files.write_dicom(tmp_path / "a.dcm", DEEP, BitsStored=12)
    whole = bytearray(files.compress(source, tmp_path / "b.dcm", "JPEGLSLossless").read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)
    (tmp_path / "b.dcm").write_bytes(whole)
    try:
        load_image(tmp_path / "b.dcm")
    except ImageError as error:
        assert "pip install" not in str(error)
    import pydicom
    from pydicom.pixels.decoders import base

    unavailable = pydicom.Dataset()
    unavailable.file_meta = pydicom.dataset.FileMetaDataset()
    unavailable.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    monkeypatch.setattr(base.Decoder, "is_available", property(lambda self: False))
    from cxrkit.data import dicom as reader

    assert re.search(r"JPEG 2000 .* needs a decoder: pip install", reader._next_step(unavailable))


@needs_dicom
def test_a_stream_of_another_size_than_the_header_is_refused(tmp_path):
    import pydicom

    files.write_baseline_jpeg_dicom(tmp_path / "a.dcm", GREY)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.Rows = 64
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(ImageError, match="header states 80x64 px, the compressed picture 80x96"):
        load_image(tmp_path / "a.dcm")


@needs_dicom
def test_what_a_file_says_of_itself_is_kept_as_codes(tmp_path):
    image = dicom(
        tmp_path,
        DEEP,
        BodyPartExamined="HAND",
        Modality="CT",
        PatientAge="003Y",
        PatientOrientation=["R", "F"],
        PresentationIntentType="FOR PROCESSING",
        Laterality="Jane Doe",  # no code: it may be a name
        PatientName="Doe^Jane",
        Grid="NONE",
        KVP="90",
        ExposureTime="12",
    )
    assert dict(image.tags) == {
        "BodyPartExamined": "HAND",
        "Modality": "CT",
        "PatientAge": "003Y",
        "PatientOrientation": "R\\F",
        "PresentationIntentType": "FOR PROCESSING",
        "ViewPosition": "PA",
    }
    assert set(image.unused_tags) == {
        *("Grid", "KVP", "ExposureTime", "BodyPartExamined", "Laterality", "PatientOrientation")
    }
    assert "Doe" not in repr(image)


def test_a_note_says_that_grey_values_were_clipped(tmp_path):
    wild = DEEP.copy()
    wild[3, 3] = 65535
    cv2.imwrite(str(tmp_path / "a.png"), wild)
    assert load_image(tmp_path / "a.png").notes == (
        "clipped: 1 pixels lie far outside of the other grey values",
    )
    from PIL import Image as Raster

    floats = GREY.astype(np.float32)
    floats[3, 3] = 1e9
    Raster.fromarray(floats).save(tmp_path / "a.tif")
    image = load_image(tmp_path / "a.tif")
    assert same_picture(image, np.where(floats > 1e8, GREY.max(), GREY)) and image.notes


def test_threads_that_read_at_once_leave_the_warnings_as_they_were(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    cv2.imwrite(str(tmp_path / "a.png"), GREY)
    files.write_dicom(tmp_path / "a.dcm", DEEP)
    before = warnings.showwarning, list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(load_image, [tmp_path / "a.png", tmp_path / "a.dcm"] * 20))
    assert (warnings.showwarning, list(warnings.filters)) == before
