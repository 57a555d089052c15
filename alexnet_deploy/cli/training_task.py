"""What `alexnet-deploy train` has to do: its options, resolved to a new run or to one that is resumed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import (
    DRAWN,
    RUNS,
    check_data_exists,
    check_new_place,
    find_run,
)
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.core.model.architecture import Architecture
    from alexnet_deploy.core.model.preprocessing import ImagePolicy
    from alexnet_deploy.core.model.weights import LoadedWeights
    from alexnet_deploy.train.loop.checkpoint import Checkpoint
    from alexnet_deploy.train.recipe import Recipe
    from alexnet_deploy.train.run import Resume
    from alexnet_deploy.train.runtime.placement import Placement
    from alexnet_deploy.train.start import Basis, Start


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The options as given; None for an option that was not given."""

    out: Path | None
    data: Path | None
    start: Path | None
    """--from."""
    freeze: str | None
    arch: str | None
    recipe: str | None
    changes: dict[str, object]
    """Recipe fields to change."""
    placement: "Placement"
    """Placement of the network as a whole, not split into columns."""
    columns: bool
    """Whether --columns was given."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to train, on which data, and where."""

    run: Path
    data: Path
    architecture: "Architecture"
    recipe: "Recipe"
    columns: bool
    resume: "Resume"
    policy: "ImagePolicy"
    loaded: "LoadedWeights | None" = None
    """The weights that a new run starts from."""
    frozen: tuple[str, ...] = ()
    """The layers that a new run freezes."""
    basis: "Basis | None" = None
    """The start of a resumed run."""
    is_over: bool = False
    """Whether the resumed run has already finished all its epochs."""

    def network(self, class_names: Sequence[str]) -> "Architecture | Start":
        """Return what is trained on these classes; raises what start_from raises."""
        from alexnet_deploy.train.start import Start, start_from

        if self.loaded is not None:
            return start_from(self.loaded, class_names, self.frozen)
        if self.basis is not None:
            # Its tensors are in the checkpoint.
            return Start(architecture=self.architecture, basis=self.basis, tensors={})
        return self.architecture


def check_task(task: Task, num_classes: int) -> None:
    """Raise what a task's place makes impossible, as soon as the number of classes is known: see check_place."""
    from alexnet_deploy.train.run import check_place

    if not task.is_over:
        check_place(task.run, task.architecture.with_num_classes(num_classes), task.recipe)


def task_of(wish: Wish, *, resume: bool, auto_resume: bool, any_machine: bool) -> Task:
    """Return the run to resume, or a new one; raises UsageError if the options contradict it or one another."""
    from alexnet_deploy.train.loop.checkpoint import CHECKPOINT

    if auto_resume and wish.out is not None:
        resume = (wish.out / CHECKPOINT).is_file()
    return _saved_task(wish, any_machine=any_machine) if resume else _new_task(wish, may_exist=auto_resume)


def _new_task(wish: Wish, *, may_exist: bool) -> Task:
    """Return a new task; raises UsageError if its directory already exists, or is not one to start a run in."""
    from alexnet_deploy.core.model.family import preprocessing_for
    from alexnet_deploy.core.model.table_text import architecture_by_name_or_file
    from alexnet_deploy.train.recipe import recipe_by_name, with_settings
    from alexnet_deploy.train.run import Resume, image_policy_of, new_run_name
    from alexnet_deploy.train.runtime.two_columns import check_columns, second_device

    is_drawn = wish.data is None
    check_new_place(wish.out)
    loaded, frozen = _loaded(wish)
    if loaded is not None:
        architecture = loaded.weights.architecture
    else:
        architecture = architecture_by_name_or_file(
            wish.arch or ("original" if wish.columns else "tiny" if is_drawn else "paper")
        )
    if wish.columns:
        # Checked first, not after a scan of a million images.
        check_columns(architecture, wish.placement.ranks.size)
        second_device(wish.placement.device)
    usual = "fine-tune" if loaded is not None else "drawn" if is_drawn else "folder"
    plan = with_settings(recipe_by_name(wish.recipe or usual), wish.changes)
    run = wish.out or RUNS / new_run_name(architecture)
    if os.path.lexists(run):
        _check_unbegun(run, may_exist=may_exist)
    if wish.data is not None:
        check_data_exists(wish.data)
    return Task(
        run=run,
        data=wish.data or _drawn_images(),
        architecture=architecture,
        recipe=plan,
        columns=wish.columns,
        resume=Resume.UNBEGUN if may_exist else Resume.NO,
        policy=image_policy_of(
            preprocessing_for(architecture.name) if loaded is None else loaded.weights.preprocessing, plan
        ),
        loaded=loaded,
        frozen=frozen,
    )


def _loaded(wish: Wish) -> "tuple[LoadedWeights | None, tuple[str, ...]]":
    """Return the weights that a new run starts from, if any, and the layers it freezes; raises UsageError."""
    if wish.start is None:
        if wish.freeze is not None:
            raise UsageError("--freeze needs --from: layers of a new network are random; pass --from FILE")
        return None, ()
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.core.model.table_text import architecture_by_name_or_file
    from alexnet_deploy.pipeline.pretrained.fine_tuning import check_architecture, load_start
    from alexnet_deploy.train.start import layers_in

    loaded = load_start(wish.start, say=say)
    if wish.arch is not None:
        check_architecture(loaded, architecture_by_name_or_file(wish.arch))
    return loaded, () if wish.freeze is None else layers_in(wish.freeze, loaded.weights.architecture)


def _check_unbegun(run: Path, *, may_exist: bool) -> None:
    from alexnet_deploy.train.loop.run_directory import refuse_foreign

    if not run.is_dir():
        kind = "a broken link" if not run.exists() else "a file"
        raise UsageError(f"{run}: is {kind}, not a directory; choose another --out")
    if not may_exist:
        raise UsageError(f"{run}: already exists; choose another --out, or resume it with --resume")
    refuse_foreign(run)


def _saved_task(wish: Wish, *, any_machine: bool) -> Task:
    """Return the task that a run's checkpoint continues, and print its state; raises UsageError if options differ."""
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.core.model.family import preprocessing_for
    from alexnet_deploy.core.model.table_text import architecture_by_name_or_file
    from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, RunIdentity, check_same, load_checkpoint
    from alexnet_deploy.train.loop.record import is_over
    from alexnet_deploy.train.recipe import recipe_by_name, with_settings
    from alexnet_deploy.train.run import Resume, image_policy_of

    if wish.data is not None:
        check_data_exists(wish.data)
    run = find_run(wish.out)
    saved = load_checkpoint(run / CHECKPOINT)
    architecture = architecture_by_name_or_file(wish.arch) if wish.arch else saved.architecture
    plan = with_settings(recipe_by_name(wish.recipe) if wish.recipe else saved.recipe, wish.changes)
    wanted = RunIdentity(
        architecture=architecture.with_num_classes(saved.architecture.num_classes),
        recipe=plan,
        # The data is compared later: reading the images may take long.
        data_sha256=saved.data_sha256,
        # Without --columns the run continues as it was started.
        columns=wish.columns or saved.columns,
        start=_basis_as_wished(wish, saved),
        machine=wish.placement.machine(),
    )
    check_same(run / CHECKPOINT, saved.identity, wanted, any_machine=any_machine)
    say(_standing(run, saved))
    return Task(
        run=run,
        data=wish.data or Path(saved.data),
        architecture=architecture,
        recipe=plan,
        columns=saved.columns,
        resume=Resume.ANY_MACHINE if any_machine else Resume.SAME_MACHINE,
        policy=image_policy_of(
            preprocessing_for(architecture.name) if saved.start is None else saved.start.preprocessing, plan
        ),
        basis=saved.start,
        is_over=is_over(saved.recipe, saved.position),
    )


def _basis_as_wished(wish: Wish, saved: "Checkpoint") -> "Basis | None":
    """Return the start of a run to resume, with the file and the frozen layers that the options name, if they do."""
    import msgspec

    from alexnet_deploy.pipeline.pretrained.fine_tuning import load_start
    from alexnet_deploy.train.start import layers_in

    if saved.start is None:
        if wish.start is not None or wish.freeze is not None:
            raise UsageError("cannot resume: the run was not started with --from; remove --from and --freeze")
        return None
    record = saved.start.record
    if wish.start is not None:
        record = msgspec.structs.replace(record, file=wish.start.name, sha256=load_start(wish.start).sha256)
    if wish.freeze is not None:
        record = msgspec.structs.replace(record, frozen=layers_in(wish.freeze, saved.architecture))
    return msgspec.structs.replace(saved.start, record=record)


def _standing(run: Path, saved: "Checkpoint") -> str:
    from alexnet_deploy.train.loop.record import is_over

    position = saved.position
    if is_over(saved.recipe, position):
        done = counted(len(position.epochs), "epoch")
        return f"{run}: training has ended, after {done}; only its report is written again"
    return f"{run}: resuming in epoch {position.epoch} of {saved.recipe.epochs}, after step {position.step}"


def _drawn_images() -> Path:
    """Return the folder of drawn images; draw them first if they do not exist yet."""
    from alexnet_deploy.cli.terminal import say
    from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_folder

    if DRAWN.exists():
        say(f"no DATA given: using the images in {DRAWN}/")
    else:
        say(f"no DATA given: drawing images of {len(DRAWN_CLASSES)} classes into {DRAWN}/")
        draw_folder(DRAWN)
    return DRAWN
