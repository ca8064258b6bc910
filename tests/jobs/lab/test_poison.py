"""Wrong captions on purpose: as many as asked, each another's, none lost; the same for the same seed."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pools import jpeg, members, pair, write_tar
from winnow.jobs.lab.poison import exchanged, poisoned
from winnow.pipeline.errors import ModelError
from winnow.stages.pools.labelled import captioned_images


@given(st.integers(2, 60), st.floats(0, 1), st.integers(0, 9))
def test_a_share_of_them_is_anothers_and_none_is_lost(count: int, share: float, seed: int) -> None:
    before = [(f"picture {n}", f"again {n}") for n in range(count)]
    after = exchanged(before, share, seed)
    asked = int(share * count + 0.5)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == (max(asked, 2) if asked else 0)
    assert Counter(after) == Counter(before)
    assert after == exchanged(before, share, seed)


def test_pictures_stay_and_captions_move(tmp_path: Path) -> None:
    for shard in range(2):
        samples = [(f"{n}", pair(10 * shard + n, "x", captions=[f"{shard}{n}", "both"])) for n in range(10)]
        write_tar(tmp_path / f"clean/{shard}.tar", members([*samples, ("z", {"txt": b"no image"})]))
    urls = [str(tmp_path / f"clean/{shard}.tar") for shard in range(2)]
    pattern = poisoned(urls, "json:captions", 0.4, 3, tmp_path / "out")
    assert pattern == str(tmp_path / "out/*.tar")
    for shard, path in enumerate(sorted((tmp_path / "out").glob("*.tar"))):
        found = list(captioned_images(str(path), "json:captions"))
        assert [sample.image for sample, _ in found] == [jpeg(10 * shard + n) for n in range(10)]  # type: ignore[misc]  # no rejects
        wrong = [texts != (f"{shard}{n}", "both") for n, (_, texts) in enumerate(found)]  # type: ignore[misc]
        assert sum(wrong) == 4
    done = json.loads((tmp_path / "out/_done.json").read_text())
    assert done == {"share": 0.4, "seed": 3, "tars": 2, "rejected": 2}
    assert poisoned(urls, "json:captions", 0.4, 3, tmp_path / "out") == pattern
    with pytest.raises(ModelError, match=r"a folder must hold one set of copies, but in .* share was 0\.4 and is 0\.5"):
        poisoned(urls, "json:captions", 0.5, 3, tmp_path / "out")
    write_tar(tmp_path / "clean/1.tar", members(samples[:4]))
    with pytest.raises(ModelError, match="files was"):
        poisoned(urls, "json:captions", 0.4, 3, tmp_path / "out")
