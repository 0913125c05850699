"""A progress that remembers what it was told."""


class Watching:
    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.reports: list[int] = []
        self.notes: list[str] = []

    def stage(self, label: str, total_bytes: int | None) -> None:
        self.stages.append((label, total_bytes))

    def at(self, done_bytes: int) -> None:
        self.reports.append(done_bytes)

    def note(self, text: str) -> None:
        self.notes.append(text)
