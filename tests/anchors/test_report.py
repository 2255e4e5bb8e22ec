import pytest
import torch
from kit.models import TARGETS, tiny_pair, with_lora
from kit.references import orthonormal

from asft_lightning.anchors import AnchorSet, Gram, ModuleAnchor, Shrinkage, Subspace, build_anchors
from asft_lightning.anchors.report import remarks, spectrum_picture, spectrum_table
from asft_lightning.anchors.term import AnchorTerm
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import gram_map


def built(anchors) -> AnchorSet:
    pair = tiny_pair(scale=0.1)
    return build_anchors(with_lora(pair.aligned, target_modules=TARGETS["llama"]), pair.aligned, pair.base, anchors)


def with_largest(c: float, d: int = 100, modules: int = 2) -> AnchorSet:
    """Gram anchors of V = σ u vᵀ: C has the one eigenvalue c = ‖V‖_F."""
    v = c * orthonormal(d, 1) @ orthonormal(d, 1, seed=1).T
    names = [f"layers.{i}.q_proj" for i in range(modules)]
    term = AnchorTerm(Gram().settings(), 1.0, {name: ModuleAnchor.of_map(gram_map(v)) for name in names})
    return AnchorSet(dict.fromkeys(names, (d, d)), (term,))


def words(anchors: AnchorSet) -> list[str]:
    return remarks(anchors.terms, anchors.shapes)


def test_the_table_shows_each_module_and_figure():
    found = built([Gram(), Shrinkage()])
    head, *lines = spectrum_table(found.terms).splitlines()
    assert " ".join(head.split()) == "module anchor ‖V‖_F trace C largest c kept energy error bound KiB"
    assert len(lines) == 2 * len(found.shapes)
    name = "model.layers.1.mlp.down_proj"
    anchor = found.terms[0].modules[name]
    row = next(line for line in lines if line.split()[:2] == [name, "Gram"]).split()
    s = anchor.spectrum
    assert row[2:6] == [f"{s.norm:.3f}", f"{s.trace:.3f}", f"{s.largest:.4f}", str(s.kept)]
    assert float(row[6].rstrip("%")) == pytest.approx(100 * s.energy, abs=0.06)
    assert float(row[7].rstrip("%")) == pytest.approx(100 * s.error_bound, abs=0.006)
    size = 4 * (anchor.out.directions.numel() + anchor.out.weights.numel())
    assert anchor.num_bytes == size and float(row[8]) == pytest.approx(size / 1024, abs=0.06)


def test_energy_is_the_share_along_the_kept_directions():
    pair = tiny_pair(scale=0.1)
    name = "model.layers.0.self_attn.q_proj"
    for anchor in (Gram(tolerance=0.5), Subspace(num_directions=3)):
        found = built([anchor]).terms[0].modules[name]
        v, u = pair.direction(name), found.out.directions.double()
        assert found.spectrum.energy == pytest.approx(float((u.T @ v).square().sum() / v.square().sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("c", "says", "silent"),
    [
        (0.04, "does not anchor: the penalty is plain shrinkage", "above 1"),
        (0.5, "costs 99.2% to 99.2% of what Shrinkage asks", "above 1"),  # (99 + 0.5²)/100
        (1.5, "above 1 over-anchors", "above 2"),
        (2.5, "above 2 repels: moving along V costs more than leaving it", "does not anchor"),
    ],
)
def test_what_a_spectrum_means_is_said_in_words(c, says, silent):
    text = "\n".join(words(with_largest(c)))
    assert says in text and silent not in text
    assert "in 2 of 2 modules" in text or c == 0.5


def test_an_anchor_without_a_map_needs_no_words():
    assert [line.split(":")[0] for line in words(built([Shrinkage()]))] == ["Size"]


def test_the_size_is_what_the_tensors_take():
    anchors = with_largest(0.5)
    assert anchors.num_bytes == 2 * (100 + 1) * 4
    assert "4.04%" not in words(anchors)[-1] and "2.02%" in words(anchors)[-1]  # 808 of 2·100·100·2 bytes


def test_the_picture_is_a_png(tmp_path):
    spectrum_picture(built([Gram()]).terms, tmp_path / "spectra.png")
    assert (tmp_path / "spectra.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_no_map_no_picture(tmp_path):
    with pytest.raises(ConfigurationError, match=r"these anchors have no map. Show the table only"):
        spectrum_picture(built([Shrinkage()]).terms, tmp_path / "spectra.png")
    assert not list(tmp_path.iterdir())


def test_random_updates_cost_what_the_remark_says():
    anchor = with_largest(0.8, d=40).terms[0].modules["layers.0.q_proj"]
    x = torch.randn(40, 20000, generator=torch.Generator().manual_seed(0))
    share = (anchor.out.dense() @ x * x).sum() / x.square().sum()
    assert float(share) == pytest.approx((39 + 0.2**2) / 40, abs=0.003)


def test_a_notebook_shows_the_table_the_words_and_the_picture():
    found = built([Gram(), Shrinkage()])
    assert repr(found) == f"AnchorSet(Gram + Shrinkage of {len(found.shapes)} modules, {found.num_bytes / 2**20:.2f} MiB)"
    html = found._repr_html_()
    assert html.count("<tr>") == 1 + 2 * len(found.shapes)
    assert "an update in no particular direction costs" in html
    assert html.count('src="data:image/png;base64,iVBOR') == 1
    assert "<img" not in built([Shrinkage()])._repr_html_()
