"""Recipes: settings under the user's own, and what became of them on the way to the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.config.faults import as_tuples, faults_of
from tunesmith.config_source import Source
from tunesmith.errors import Fault, UserError
from tunesmith.registry import COMPOSED, Plugin, plugins, recipe_file


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RecipePrepare(_Strict):
    """How a recipe cuts a folder of plain recordings; arguments of :func:`tunesmith.prepare`."""

    min_s: float = Field(10.0, gt=0)
    max_s: float = Field(30.0, gt=0)
    normalise_lufs: float | None = None
    augment: tuple[str, ...] = ()
    variants: int | None = None
    voice: bool = False


class About(_Strict):
    """The section ``recipe`` of a recipe: what it says of itself."""

    summary: str = ""
    steps: tuple[int, int] | None = None
    prepare: RecipePrepare = RecipePrepare()  # type: ignore[call-arg]
    columns: tuple[str, ...] = Field(
        (), description="columns beside the caption that the base has to be told, e.g. [lyrics]"
    )
    instead: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="sections that another method has in their place"
    )


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that is not what the recipe says.

    Attributes:
        key: dotted.
        recipe: what the recipe says; None where it leaves that to the base.
        used: what the run has.
        by: who changed it.
    """

    key: str
    recipe: Any
    used: Any
    by: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """The recipe of a run.

    Attributes:
        name: what the user typed, or a file's name.
        summary: in a line.
        steps: usual number of training steps, from and to.
        prepare: how plain recordings are cut.
        changes: what the base and the user have changed.
        columns: what the base has to be told beside the caption.
    """

    name: str
    summary: str
    steps: tuple[int, int] | None
    prepare: RecipePrepare
    changes: tuple[Change, ...] = ()
    columns: tuple[str, ...] = ()

    def misfit(self, family: Plugin) -> Fault | None:
        """What is wrong with a family of bases for this recipe, if anything."""
        if not set(self.columns) - set(family.spec.get("columns", ())):
            return None
        able = [
            one.name
            for one in plugins("families").values()
            if set(self.columns) <= set(one.spec.get("columns", ()))
        ]
        needed = "sings lyrics" if "lyrics" in self.columns else f"is told {self.columns[0]}"
        told = ", ".join(("its caption", *family.spec.get("columns", ())))
        return Fault(
            "base",
            f"the recipe '{self.name}' needs a base that {needed}: {family.name} is told {told} alone",
            f"use one of {', '.join(able)} (`tunesmith ls`)" if able else "use another recipe",
        )

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {"key": one.key, "recipe": one.recipe, "used": one.used, "by": one.by}
            for one in self.changes
        ]
        steps = list(self.steps) if self.steps else None
        return {"name": self.name, "summary": self.summary, "steps": steps, "changes": rows}


def read_recipe(given: Source, recipe: str | Path | None) -> tuple[Source, Recipe | None, str]:
    """What the recipe says for the method that was asked for; its name becomes a setting.

    Args:
        given: what the user says; ``recipe`` is put into it.
        recipe: a name or a YAML file; by default what ``given`` says.

    Returns:
        Its settings, itself, and the name under which a base may have notes of its own about it:
        ``instrument``, or ``instrument/dreambooth`` where another method stands in for its own.
    """
    told = Source()
    name = str(recipe) if recipe is not None else given.values.get("recipe")
    if not isinstance(name, str):
        return told, None, ""
    try:
        file = recipe_file(name)
        told.put_file(file)
    except UserError as error:
        told.faults.append(Fault("recipe", error.message, error.mend))
        return told, None, ""
    if Path(name).suffix in (".yaml", ".yml"):
        name = str(file.resolve())  # a run may be resumed from another folder
    given.values["recipe"] = name
    try:
        about = About.model_validate(as_tuples(told.values.pop("recipe", {})))
    except ValidationError as error:
        told.faults.extend(
            replace(fault, where=told.where(fault.key))
            for fault in faults_of(error, "recipe", {"recipe": list(About.model_fields)})
        )
        return told, None, ""
    label = _for_method(told, given, about, Path(name).stem)
    shown = name if name == Path(name).stem else Path(name).name
    found = Recipe(shown, about.summary, about.steps, about.prepare, columns=about.columns)
    return told, found, label


def _for_method(told: Source, given: Source, about: About, name: str) -> str:
    """Put the settings of another method in their place, if that is what the user asked for."""
    asked, own = _method(given.values), _method(told.values)
    if asked in about.instead:
        for section, settings in about.instead[asked].items():
            if isinstance(settings, Mapping) and section in ("method", "tokens"):
                told.values.pop(section, None)
            told.put(section, settings, told.places.get("recipe.instead", ""))
        return f"{name}/{asked}"
    parts = COMPOSED.get(asked or "")
    method = given.values.get("method")
    on = method.get("on") if isinstance(method, Mapping) else None
    plain = (on or parts["on"][0]) if parts else asked
    if plain is None or own is None or plain == own:
        return name
    for section in ("method", "tokens"):  # they would be unknown to it, or wrong
        told.values.pop(section, None)
    train = given.values.get("train")
    if not (isinstance(train, Mapping) and "lr" in train):
        others = "".join(f" or --method {one}" for one in about.instead)
        told.faults.append(
            Fault(
                "method",
                f"the numbers of the recipe '{name}' are made for {own}, not for {asked}",
                f"leave --method out{', or use' + others[3:] if others else ''}, or give train.lr",
            )
        )
    return name


def _method(values: Mapping[str, Any]) -> str | None:
    method = values.get("method")
    name = method.get("name") if isinstance(method, Mapping) else method
    return name if isinstance(name, str) else None


def changes(
    told: Mapping[str, Any],
    below: Mapping[str, Any],
    over: Mapping[str, Any],
    given: Source,
    used: Mapping[str, Any],
    base: str,
) -> tuple[Change, ...]:
    """What differs from the recipe, and who made it so.

    Args:
        told: the recipe's settings.
        below: those under it: the family's and the base's defaults of the method.
        over: what the base says of this recipe.
        given: what the user says.
        used: all of them laid over each other.
        base: the base's name.
    """
    said, under, noted, final = (_flat(one) for one in (told, below, over, used))
    found = []
    for key in dict.fromkeys((*said, *noted)):
        if key in ("method.name", "method.on"):
            continue
        recipe, value = said.get(key, under.get(key)), final.get(key)
        if recipe == value:
            continue
        if key in noted and noted[key] == value:
            by = f"the notes of {base}"
        else:
            other = {"train.steps": "train.epochs"}.get(key, key)
            place = given.places.get(key) or given.places.get(other)
            by = f"your settings ({place})" if place else "your settings"
        found.append(Change(key, recipe, value, by))
    return tuple(found)


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        key = f"{above}.{name}" if above else name
        if isinstance(value, Mapping):
            found |= _flat(value, key)
        else:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found


__all__ = ["About", "Change", "Recipe", "RecipePrepare", "changes", "read_recipe"]
