# %% [markdown]
# # 00 Start here: a map of the kit, and hospitals made of physics
#
# **Aim.** See what this kit reproduces, build a chest radiograph from a CT in five cells, and meet the six virtual hospitals whose
# patients all lessons use.
#
# **Paper.** Park et al. 2021, sections 1 (the problem) and 4 (the data). **Time.** About a quarter of an hour on two CPU cores, nearly
# all of it for drawing 9,600 films once; later lessons find them in the store.
#
# Research and teaching only: nothing here is a diagnostic device. Every film in this lesson is *synthetic*.

# %% tags=["parameters"]
profile = "demo"
out = None

# %% [markdown]
# ## The paper in one paragraph, the kit in one table
#
# A radiologist does not look for "COVID-19". She sees *findings* (an opacity here, a consolidation there, no effusion), and how many
# they are and where they lie makes the diagnosis. The paper builds a network the same way: a DenseNet-121 with PCAM pooling learns ten
# common findings from very many films; its last feature map, a grid of 16x16 vectors, becomes the *corpus* whose cells are the
# tokens of a Vision Transformer. From its class token comes the diagnosis, from its other tokens a severity map.
#
# | lesson | question | what you see |
# |---|---|---|
# | **00** | where do the films come from? | a radiograph built from a CT, six hospitals |
# | 01 | what does the model see? | equalisation, blur, normalisation, on every film |
# | 02 | which findings? | DenseNet with PCAM, finding maps, the corpus |
# | 03 | where are the lungs? | AdaIN segmentation against two plain U-Nets |
# | 04 | which disease? | the corpus Vision Transformer on hospitals never seen |
# | 05 | why? | relevance maps, and a benchmark that evaluates them |
# | 06 | how much? | severity 0-6 from six zones, from weak labels |
# | 07 | what matters? | the paper's ablations, with intervals |
# | 08 | is it real? | shortcuts: what a marker can do to a model |
# | 09 | show me | the reading room |

# %%
import inspect

import numpy as np
import pandas as pd
from scipy import ndimage

from cxrkit import Run, data, simulation, viz

run = Run(profile, out)
print(
    f"profile {run.profile.name}: {run.profile.cohort.findings} films with findings, {run.profile.cohort.diagnosis} with a diagnosis, "
    f"{run.profile.cohort.severity} with severity"
)

# %% [markdown]
# ## A radiograph in five cells
#
# **1. Matter.** The kit carries three real chest CTs (with permission to share them: see `cxrkit/simulation/atlas`). Each patient had a lung
# cancer, which is taken out. A CT tells, for every small block of the body, how strongly it attenuates X-rays, here in units where water
# is 100, and what it is.

# %%
atlas = simulation.load_atlas()
matter = atlas.attenuation()[:, ::-1]  # (depth, height, width), head up
figure, axes = viz.grid(1, 3, size=3.6, title="One chest CT: attenuation (water = 100) and labels")
viz.show_image(axes[0, 0], matter[30], "near the back", vmin=0, vmax=160)
viz.show_image(axes[0, 1], matter[50], "near the front", vmin=0, vmax=160)
viz.show_image(
    axes[0, 2],
    atlas.labels[50, ::-1],
    "labels: lobes, heart, liver, bones",
    cmap="tab20",
    interpolation="nearest",
    vmin=0,
    vmax=19,
)
for axis in axes[0]:
    axis.set_aspect(atlas.pitch[0] / atlas.pitch[1])  # the blocks are higher than wide
viz.stamp(figure, "from a chest CT of LIDC-IDRI (CC BY 3.0)")

# %% [markdown]
# **2. Rays.** An X-ray that crosses attenuation $\mu$ over a length $L$ is weakened to $I = I_0 e^{-\mu L}$ (Beer and Lambert). Layers
# one behind the other multiply, so their $\mu L$ *add*: all that a film can know of a ray is one sum. Two slabs, by hand:

# %%
# attenuation in 1/mm, thickness in mm: soft tissue, then lung
slabs = np.array([[0.020, 40.0], [0.003, 100.0]])
one_by_one = 1.0
for mu, length in slabs:
    one_by_one *= np.exp(-mu * length)
at_once = np.exp(-(slabs[:, 0] * slabs[:, 1]).sum())
np.testing.assert_allclose(one_by_one, at_once)
print(f"{at_once:.3f} of the photons arrive; the film sees -log of it: {-np.log(at_once):.2f}")

# %% [markdown]
# **3. A film is a sum.** Let parallel rays run from back to front through the CT. The sum over depth is a chest radiograph already.

# %%
mu = simulation.anatomy.WATER * matter / 100  # 1/mm, attenuation of each block
line_integral = (mu * simulation.anatomy.SLICE_SPACING).sum(axis=0)  # (height, width)
figure, axes = viz.grid(1, 2, size=4.2, title="From line integrals to photons")
viz.show_image(axes[0, 0], line_integral, "line integral (white = dense)")
viz.show_image(
    axes[0, 1],
    np.exp(-line_integral),
    "share of photons that arrive (film before the logarithm)",
    vmax=0.1,
)
for axis in axes[0]:
    axis.set_aspect(atlas.pitch[0] / atlas.pitch[1])
viz.stamp(figure)

# %% [markdown]
# **4. A point source magnifies.** A real tube is 1.8 m away for a standing patient (PA: the chest touches the detector) and nearer for a
# bed film (AP: the back lies on it). What is far from the detector is larger on the film: the heart lies in front, so AP makes hearts
# look big. `project` bends every depth slice to its own magnification, so that the rays run straight again and a plain sum will do.

# %%
body = simulation.make_body(np.random.default_rng(3))
chests = {view: simulation.project(body, view) for view in simulation.VIEWS}
figure, axes = viz.grid(
    1,
    2,
    size=4.2,
    title="The same patient from two sides: line integrals, lungs as a reader outlines them",
)
for axis, (view, chest) in zip(axes[0], chests.items(), strict=True):
    viz.show_image(axis, chest.integrals.sum(axis=0), view)
    viz.outline_mask(axis, chest.right, viz.SKY)
    viz.outline_mask(axis, chest.left, viz.ORANGE)
viz.stamp(figure)

# %% [markdown]
# Is the package's projection the sum that we wrote by hand? For a body that is not bent, seen from very far away, it must be. We look at
# the soft tissue; the fine bones and vessels have blocks of their own.

# %%
straight = simulation.Body(
    (1.0, 1.0, 1.0), 0.0, 0.0, (0.0, 0.0), np.zeros((2, 4, 6, 5), np.float32)
)
distance = simulation.anatomy.SOURCE_DISTANCE
near, distance["PA"] = distance["PA"], 1e9
projected = simulation.project(straight, "PA", size=240, field_mm=360.0).integrals[0]
distance["PA"] = near
projected = projected.reshape(120, 2, 120, 2).mean(axis=(1, 3))  # pixels of 3 mm
soft = simulation.anatomy.WATER / 100 * atlas.soft[..., 0].astype(float).sum(axis=0)
soft *= simulation.anatomy.SLICE_SPACING
mm = (np.arange(120) - 59.5) * 3.0  # of the pixels, from the middle of the film
rows = (atlas.centre[0] - mm + atlas.margin[0]) / atlas.pitch[0]
columns = (atlas.centre[2] + mm + atlas.margin[1] - atlas.spacing / 2) / atlas.pitch[1]
by_hand = ndimage.map_coordinates(soft, np.meshgrid(rows, columns, indexing="ij"), order=1)
inside = (slice(4, -4),) * 2
np.testing.assert_allclose(projected[inside], by_hand[inside], atol=0.02 * np.ptp(by_hand))
print("equal to 2 % of the range")

# %% [markdown]
# **5. A detector is not perfect.** Photons scatter and fog the film, they arrive in whole numbers (noise), the detector blurs; then
# software takes the logarithm, equalises and sharpens, each maker in its own way. That is most of what makes hospitals differ.

# %%
rng = np.random.default_rng(0)
integral = chests["PA"].integrals.sum(axis=0)
signal = simulation.detect(integral, simulation.Detector(), rng)
figure, axes = viz.grid(
    1, 4, size=3.0, title="From photons to a film, and the same chest in three hospitals"
)
viz.show_image(axes[0, 0], signal, "log of what arrives")
for axis, name in zip(axes[0, 1:], ("alder", "elm", "fir"), strict=True):
    viz.show_image(
        axis,
        simulation.expose(
            integral, simulation.SITES[name].detector, "PA", "R", np.random.default_rng(1)
        )[0],
        f"hospital {name}",
    )
viz.stamp(figure)

# %% [markdown]
# ## Disease is attenuation, too
#
# A pneumonia fills air spaces with fluid: voxels of a lobe go from 14 towards 100. Nothing is painted on the film. That is why vessels
# *vanish* inside the opacity and why it stops sharply at a fissure, as on real films.

# %%
chest = chests["PA"]
pneumonia = simulation.Lesion(
    "consolidation", (198.0, 140.0, 100.0), (45.0, 45.0, 45.0), (1,), 30.0, 0.4, 1
)
added, extent = simulation.add_lesions(chest, [pneumonia])
figure, axes = viz.grid(
    1, 3, size=3.6, title="A consolidation of the right upper lobe: sharp below, at the fissure"
)
viz.show_image(axes[0, 0], integral, "before")
viz.show_image(axes[0, 1], added, "what the disease adds", cmap="magma")
viz.show_image(axes[0, 2], integral + added, "after")
viz.stamp(figure)

# %%
print(inspect.getsource(simulation.add_lesions))

# %% [markdown]
# ## Meet the hospitals
#
# Three sites for training and validation, three external ones, six machines. One of the three CTs is seen at external sites alone. The next cell draws the whole cohort (progress below) or
# loads it from the store. Splits go by *anatomy*: no chest stands on both sides.

# %%
drawn = run.virtual.cohort
table = drawn.table
pd.DataFrame(
    [
        {
            "site": s.name,
            "role": s.role,
            "PA share": s.pa_share,
            **dict(zip(data.DIAGNOSES, s.prevalence, strict=True)),
            "films": int((table.site == s.name).sum()),
        }
        for s in simulation.SITES.values()
    ]
).set_index("site")

# %% [markdown]
# **Diagnosis x hospital.** Normal: nothing focal. Other infection: one lobe (bacteria) or the apices (tuberculosis). COVID-19: several
# foci on both sides, at the edges, low down. In most patients the foci of all infections look alike, and only their places differ
# (`simulation.arrangement`); in the others each infection has textures of its own: filled lobes, nodules and cavities, ground glass.

# %% tags=["report"]
ward = table[(table.ward == "diagnosis") & (table.view == "PA")]
rows = [
    [
        ward[(ward.site == site) & (ward.diagnosis == diagnosis)].index[:1]
        for site in simulation.SITES
    ]
    for diagnosis in data.DIAGNOSES
]
images = [[drawn.images[int(row[0])] for row in line] for line in rows]
viz.plot_sheet(
    images,
    [d.replace("_", "\n") for d in data.DIAGNOSES],
    list(simulation.SITES),
    "Diagnosis x hospital",
)

# %% [markdown]
# **The ten findings** of CheXpert, which the backbone will learn in lesson 02. Here a film of each with few other findings.

# %% tags=["report"]
general = table[(table.ward == "findings") & (table.view == "PA")]
few = general[list(data.FINDINGS)].sum(axis=1)
# one of the least crowded films
first = [few[general[name] == 1].sort_values(kind="stable").index[1] for name in data.FINDINGS]
pictures = np.array([drawn.images[int(i)] for i in first]).reshape(2, 5, *drawn.images.shape[1:])
figure = viz.plot_sheet(pictures, ["", ""], [""] * 5, "One film for each finding")
for axis, name in zip(figure.axes, viz.finding_names(), strict=True):
    axis.set_title(name)
figure

# %% [markdown]
# **Truth.** Because we placed the disease ourselves, we know for each film: both lungs, the extent of the lesion, the six zones. A zone
# counts if the lesion covers at least 1 % of it; severity is the number of such zones (0-6), as in the paper.

# %%
row = int(
    table[
        (table.ward == "diagnosis") & (table.severity == 4) & (table.diagnosis == "covid19")
    ].index[0]
)
patient = simulation.from_url(table.url[row])
viz.plot_image(patient)

# %%
# NBVAL_CHECK_OUTPUT
agree, inside = [], []
for i in range(len(drawn)):  # film by film: all masks at once would take a gigabyte
    (right, left), lesion = drawn.lungs(i), drawn.lesion(i)
    array = data.coverage(lesion, data.zones_of_sides(right, left)) >= 0.01
    agree.append((array == drawn.arrays(i)).all())
    inside.append(not (lesion & ~(right | left)).any())
groups = table.groupby("group_id")
print("films:", len(drawn), "| anatomies:", groups.ngroups)
print("arrays agree with the lesions on every film:", all(agree))
print("lesions lie inside the lungs:", all(inside))
print(
    "an anatomy in two splits or sites:",
    int((groups.split.nunique() > 1).sum() + (groups.site.nunique() > 1).sum()),
)

# %% [markdown]
# **Follow-up.** In the severity ward nearly every patient comes three times; the disease grows and clears at the patient's own pace.

# %% tags=["report"]
series = table[table.ward == "severity"].groupby("patient_id")
spread = (series.severity.max() - series.severity.min()).sort_values(ascending=False, kind="stable")
visits = table[table.patient_id == spread.index[0]].sort_values("visit")
viz.plot_series([simulation.from_url(url) for url in visits.url])

# %% [markdown]
# ## Walk through the wards
#
# A static look first, then the widget: choose hospital, ward and film, and switch the truth on.


# %%
def example(site, ward, number, truth):
    return viz.plot_image(simulation.Hospital(site, ward=ward)[number], truth)


example("dogwood", "diagnosis", 3, True)

# %%
viz.explore(
    example,
    site=list(simulation.SITES),
    ward=list(simulation.WARDS),
    number=(0, 199, 1),
    truth=True,
)

# %% [markdown]
# ## Exercises
#
# 1. How much wider is the heart on AP than on PA? Take the point 60 mm left and the point 60 mm right of the middle of the heart
#    (`atlas.heart`, in mm) and ask both chests where they fall (`chest.pixel_of`).
# 2. Can you tell the hospitals apart without looking? Compare the mean grey of the outermost ten columns of the films of two sites.
#    What could a model learn from that?
# 3. Draw a tuberculosis yourself (`simulation.patterns.tuberculosis`) and count its cavities and nodules over 200 patients.

# %% tags=["solution"]
# Exercise 1: the heart on AP and PA.
z, y, x = atlas.heart
widths = {
    view: np.diff(chest.pixel_of([(z, y, x - 60), (z, y, x + 60)])[:, 0])[0]
    for view, chest in chests.items()
}
print(f"AP is {100 * (widths['AP'] / widths['PA'] - 1):.0f} % wider")

# %% tags=["solution"]
# Exercise 2: borders give hospitals away.
for site in ("birch", "fir"):
    edges = drawn.images[np.where(table.site == site)[0]][:, :, :10]
    print(
        site,
        f"mean {edges.mean():.0f}, share of films with a black border {(edges.mean(axis=(1, 2)) < 20).mean():.2f}",
    )

# %% tags=["solution"]
# Exercise 3: what tuberculosis is made of.
lesions = [
    lesion.kind
    for seed in range(200)
    for lesion in simulation.patterns.tuberculosis(np.random.default_rng(seed))
]
print({kind: lesions.count(kind) / 200 for kind in sorted(set(lesions))}, "a patient")

# %% [markdown]
# ## Next
#
# The films are grey, dull and differ from hospital to hospital. **01_preprocessing** shows what the model gets to see of them.
