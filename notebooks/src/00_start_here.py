# %% [markdown]
# # 00 Start here: a map of the kit, and hospitals made of physics
#
# **Aim.** See what this kit reproduces, build a chest radiograph from a CT in five cells, and meet the six virtual hospitals whose
# patients all lessons use.
#
# **Afterwards you can** say what a chest film is a sum of and why AP makes hearts look large; tell what differs between hospitals from what
# differs between patients; and name what is known of a virtual patient that nobody knows of a real one. **Before it:** nothing but Python.
#
# **Paper.** Park et al. 2021, sections 1 (the problem) and 4 (the data). **Time to teach:** 60 minutes. **Time to run:** under a minute on two
# CPU cores. The table of the films comes
# with the kit; a film is drawn when a lesson first asks for it, and later lessons find it in the store.
#
# Research and teaching only: nothing here is a diagnostic device. Every film in this lesson is *synthetic*.

# %% tags=["parameters"]
profile = "demo"
out = None

# %% [markdown]
# ## The paper in one paragraph, the kit in one table
#
# **What a film is for.** The test for COVID-19 is RT-PCR, not a film. In 254 patients with a positive RT-PCR, radiologists called the first film
# positive in 73 %; in 55 % within two days of the first symptoms, in 79 % after the eleventh. Of 254 controls with a negative test one in five had a
# film that looked like it ([doi 10.1148/ryct.2020200337](https://doi.org/10.1148/ryct.2020200337)). So a normal film does not rule the disease
# out. A film says how far the lungs are involved, shows what else is there (a collapsed lung, a misplaced tube), and it is there in minutes.
#
# **What a report holds.** Who, when and why the film was taken, and how (view, position, quality); earlier films to compare with; the findings and
# where they are; devices; an impression that answers the question of the ward, with its certainty; what should be done next. A network of this
# kit gives a part of one line of it.
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
# | 03b | what are places and attention for? | two marks, a head by your own hand, switches |
# | 04 | which disease? | the corpus Vision Transformer on hospitals never seen |
# | 05 | why? | relevance maps, and a benchmark that evaluates them |
# | 06 | how much? | severity 0-6 from six zones, from weak labels |
# | 07 | what matters? | the paper's ablations, with intervals |
# | 08 | is it real? | shortcuts: what a marker can do to a model |
# | 09 | show me | the reading room |

# %%
# NBVAL_CHECK_OUTPUT
import inspect

import numpy as np
import pandas as pd
from scipy import ndimage

from cxrkit import Run, data, simulation, viz
from cxrkit.teaching import check, classroom_images, glossary, hint, what_to_see  # noqa: F401

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

# %% tags=["story"]
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
# **What you should have seen.** Air is black and bone is white, as on a film, but each slice shows one depth alone. The colours on the right say
# what each block is: lobes, heart, liver, bones. The patient's right lung is on your left.
#
# **2. Rays.** An X-ray that crosses attenuation $\mu$ over a length $L$ is weakened to $I = I_0 e^{-\mu L}$ (Beer and Lambert). Layers
# one behind the other multiply, so their $\mu L$ *add*: all that a film can know of a ray is one sum. Two slabs, by hand:

# %%
# NBVAL_CHECK_OUTPUT
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

# %% tags=["story"]
mu = simulation.anatomy.WATER * matter / 100  # 1/mm, attenuation of each block
line_integral = (mu * simulation.anatomy.SLICE_SPACING).sum(axis=0)  # (height, width)
figure, axes = viz.grid(1, 2, size=4.2, title="From line integrals to photons")
viz.show_image(axes[0, 0], line_integral, "line integral (bright = dense)")
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
# **What you should have seen.** On the left a radiograph: ribs, heart and diaphragm come out of a plain sum. On the right hardly anything passes the
# middle of the chest, which is why a film shows the logarithm.
#
# **4. A point source magnifies.** A real tube is 1.8 m away for a standing patient (PA: the chest touches the detector) and nearer for a
# bed film (AP: the back lies on it). Many AP films are taken of patients who lie (*supine*): the lungs are less full, fluid spreads behind them
# as a veil instead of a level, and air of a collapsed lung collects in front. What is far from the detector is larger on the film: the heart lies in front, so AP makes hearts
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
display(viz.stamp(figure))
z, y, x = atlas.heart  # mm
heart = [(z, y, x - 60), (z, y, x + 60)]
width = {view: np.ptp(chest.pixel_of(heart)[:, 0]) for view, chest in chests.items()}
what_to_see(
    f"The two look much alike, but 120 mm at the heart are {width['AP'] / width['PA'] - 1:.1%} wider "
    "on the AP film. The eye alone hardly sees it; exercise 00.1 says where it comes from."
)

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
    1, 4, size=3.7, title="From photons to a film, and the same chest in three hospitals"
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
# **What you should have seen.** One chest, four greys. A model that learns greys learns the hospital.
#
# ## Disease is attenuation, too
#
# A pneumonia fills air spaces with fluid: voxels of a lobe go from 14 towards 100. Nothing is painted on the film. That is why vessels
# *vanish* inside the opacity and why it stops sharply at a fissure, as on real films.

# %% tags=["story"]
# NBVAL_CHECK_OUTPUT
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
print("the disease only adds attenuation:", bool(added.min() >= 0))
print("and nothing to the other lung:", bool((added[chest.left] == 0).all()))
viz.stamp(figure)

# %% [markdown]
# **What you should have seen.** The opacity ends in a sharp line below, where the lobe ends, and fades on the other sides. In the middle stands
# what was added to the sum, nothing else.

# %%
print(inspect.getsource(simulation.add_lesions))

# %% [markdown]
# ## Meet the hospitals
#
# Three sites for training and validation, three external ones, six machines. One of the three CTs is seen at external sites alone. The next
# cell opens the cohort: a table of all films, whose pixels are drawn when they are asked for (with other settings than these, all at once).
# Splits go by *anatomy*: no chest stands on both sides.

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
# All films of a column have the same anatomy, which belongs to one hospital: what differs below each other is the patient's disease, and
# the exposure. Three of the six hospitals are shown: a site of training, and two external ones.

# %% tags=["report", "story"]
ward = table[(table.ward == "diagnosis") & (table.view == "PA")]
# the first film of each diagnosis, and the first anatomy of each hospital that has all three
firsts = ward.reset_index().pivot_table("index", ["site", "group_id"], "diagnosis", "min")
whole_first = firsts.isna().any(axis=1).sort_values(kind="stable").index
firsts = firsts.loc[whole_first].groupby("site").first()  # of each diagnosis the first there is
firsts = firsts.loc[list(simulation.SITES), list(data.DIAGNOSES)]
sheet = firsts.to_numpy(int).T  # (diagnosis, site)
columns = ["alder", "elm", "fir"]
viz.plot_sheet(
    drawn.images[sheet[:, [list(simulation.SITES).index(name) for name in columns]]],
    [d.replace("_", "\n") for d in data.DIAGNOSES],
    columns,
    "Diagnosis x hospital",
)

# %% [markdown]
# **What you should have seen.** Down a column the chest stays and the disease changes; along a row the disease stays and everything else changes.
# Most lesions are hard to see even at this size: the truth below outlines one.
#
# **The ten findings** of CheXpert are what the backbone will learn in lesson 02, which shows all ten outlined. Below are two that are plain and two
# that are not, each on a film with as few other findings as possible.

# %% tags=["report", "story"]
general = table[(table.ward == "findings") & (table.view == "PA")]
few = general[list(data.FINDINGS)].sum(axis=1)
names = ["cardiomegaly", "pleural_effusion", "atelectasis", "pneumothorax"]
# one of the least crowded films
first = [few[general[name] == 1].sort_values(kind="stable").index[1] for name in names]
viz.plot_sheet(
    drawn.images[np.array([first])],
    [""],
    [name.replace("_", " ") for name in names],
    "Two plain findings, two faint ones",
)

# %% [markdown]
# **What you should have seen.** A large heart and fluid are plain; a plate of collapsed lung or a pleural line is a few pixels wide. Lesson 02
# shows the same order in the numbers of a network.
#
# **Truth.** Because we placed the disease ourselves, we know for each film: both lungs, the extent of the lesion, the six zones. A zone
# counts if the lesion covers at least 1 % of it; severity is the number of such zones (0-6), as in the paper. The check below counts again
# on every film of the sheet's anatomies in this ward.

# %% tags=["story"]
row = int(
    table[
        (table.ward == "diagnosis") & (table.severity == 4) & (table.diagnosis == "covid19")
    ].index[0]
)
patient = simulation.from_url(table.url[row])
viz.plot_image(patient)

# %% [markdown]
# **What you should have seen.** The lesion in the middle, counted zone by zone on the right: ones where it covers enough of a zone, and their sum is
# the severity.

# %%
# NBVAL_CHECK_OUTPUT
bodies = ward.loc[sheet[0], "group_id"]
checked = ward.index[ward.group_id.isin(bodies)].to_numpy()
agree, inside = [], []
truth = zip(*drawn.lungs(checked), drawn.lesion(checked), drawn.arrays(checked), strict=True)
for right, left, lesion, array in truth:
    again = data.coverage(lesion, data.zones_of_sides(right, left)) >= 0.01
    agree.append((again == array).all())
    inside.append(not (lesion & ~(right | left)).any())
groups = table.groupby("group_id")
print("films:", len(drawn), "| anatomies:", groups.ngroups)
print("of them counted again:", len(checked))
print("arrays agree with the lesions:", all(agree))
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
# **What you should have seen.** The outlines shrink from visit to visit, and the score with them. The view may change between two visits, as on a
# real ward.
#
# ## Walk through the wards
#
# A static look first, then the widget: choose hospital, ward and film, and switch the truth on.


# %%
# NBVAL_CHECK_OUTPUT
def example(site, ward, number, truth):
    return viz.plot_image(simulation.Hospital(site, ward=ward)[number], truth)


twice = [simulation.Hospital("dogwood")[3].image for _ in range(2)]
print("drawn twice, the same film pixel for pixel:", np.array_equal(*twice))
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
# **What you should have seen.** A film as the other lessons find it, and with *truth* on its lungs, its lesion and its zones. Switch the truth off first,
# look for the lesion, and only then switch it on again.
#
# ## The same on real films
#
# `cxrkit data fetch classroom` gets 60 films that may be shown to a class, each from its public address: 20 normal, 20 pneumonia, 20 COVID-19.
# Where they are, they stand here. Before you compare: the COVID-19 films come from one hospital, and half of the others show children.

# %%
real = classroom_images()
if real is not None:
    shown = [real[real.diagnosis == name].iloc[::5] for name in data.DIAGNOSES]
    pictures = [[data.load_image(path).pixels for path in part.path] for part in shown]
    names = [name.replace("_", "\n") for name in data.DIAGNOSES]
    sheet = viz.plot_sheet(pictures, names, [""] * len(pictures[0]), "Real films", synthetic=False)
    display(viz.stamp(sheet, "real films, research and teaching only"))
    seen = what_to_see(
        f"{len(real)} real films. What tells the rows apart is not the disease alone: age, machine "
        "and frame differ from source to source. A model may learn those (lesson 08)."
    )
    display(seen)

# %% [markdown]
# ## Exercises
#
# `check` says right, or what is wrong; `hint("00.1")` helps, a little more each time (three times).
#
# ### Exercise 00.1 (warm-up): a shadow is larger
#
# A point source lies `distance` mm from the detector, an object `height` mm above the detector. How many times larger than the object is its
# shadow? Then say why AP hearts look large: in AP the source is nearer, and the heart is farther from the detector.


# %% tags=["exercise", "00.1"]
def magnification(distance, height):
    """Source to detector, object above the detector, both in mm -> size of shadow over object."""
    return ...


check("00.1", magnification)

# %% [markdown]
# ### Exercise 00.2 (core): edges that give a hospital away
#
# Some hospitals leave a black frame. Write the share of films whose edge is black: the ten first and ten last columns together have a mean
# grey below 20. Then compare two hospitals: `drawn.images[films.index[:20].to_numpy()]` are the pixels of twenty films of
# `films = table[table.site == "birch"]`. What could a model learn from that?


# %% tags=["exercise", "00.2"]
def black_edges(films):
    """uint8 (n, H, W) -> share of films whose ten first and ten last columns have a mean below 20."""
    return ...


check("00.2", black_edges)

# %% [markdown]
# ### Exercise 00.3 (project): what tuberculosis is made of
#
# `simulation.patterns.tuberculosis(rng)` draws the lesions of one patient, and each lesion has a `kind`. Write the mean number of each kind in
# a patient, then apply it to 200 patients.


# %% tags=["exercise", "00.3"]
def mean_of_each_kind(patients):
    """List of patients, each a list of lesions -> {kind: mean number in a patient}."""
    return ...


check("00.3", mean_of_each_kind)

# %% [markdown]
# ## Words
#
# Every word of the trade is explained where it is first needed. This table says where:

# %%
# NBVAL_CHECK_OUTPUT
glossary()

# %% [markdown]
# > **Take away.** (1) A film is a sum along rays, and a disease adds to it. (2) Machine and view change every pixel; disease changes few. (3) Of a
# > virtual patient the truth is known for every pixel; that makes this kit a place to test methods, and no evidence about real patients.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. Two layers let a half and a third of the photons pass. How many pass both?
#    <details><summary>answer</summary>A sixth: the shares multiply, and the film's logarithm adds.</details>
# 2. Why does the heart look larger on an AP film?
#    <details><summary>answer</summary>It lies in front, farther from the detector, and the source is nearer; both magnify.</details>
# 3. Why do vessels vanish in a consolidation?
#    <details><summary>answer</summary>Blood and fluid attenuate alike; the air between the vessels, which made them visible, is gone.</details>
# 4. Why do splits go by anatomy and not by film?
#    <details><summary>answer</summary>Films of one anatomy are alike. With one of them in training, a test on another is too easy.</details>
# 5. A normal film, a positive RT-PCR. Is one of them wrong?
#    <details><summary>answer</summary>No. Early or mild COVID-19 often leaves no sign on a film.</details>
#
# ## Next
#
# The films are grey, dull and differ from hospital to hospital. **01_preprocessing** shows what the model gets to see of them.
