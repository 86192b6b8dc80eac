"""Draws the state diagrams of the pages, which GitHub shows by Mermaid, as SVG in the page: no script, no network.

States stand below each other. An edge goes down on the right and up on the left, in a lane that is free there; its
number leads to the line of the table below the picture that says what happens.
"""

import html
import re
from dataclasses import dataclass

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROW, BOX, LANE, EDGE = 46, 150, 26, 14


@dataclass(frozen=True)
class Edge:
    """From one state to another; `lane` counts from the boxes outwards."""

    number: int
    source: int
    target: int
    lane: int

    @property
    def goes_up(self):
        """Whether it is drawn on the left."""
        return self.target < self.source


def parsed(lines):
    """The states in order, the first of them, and (from, to, what) for each edge."""
    states, edges, first = [], [], None
    for line in lines:
        found = re.fullmatch(r"\s*(\S+) --> (\S+?)(?:: (.*))?", line)
        if found is None:
            continue
        source, target, what = found[1], found[2], found[3] or ""
        if source == "[*]":
            first = target
        for state in (source, target):
            if state != "[*]" and state not in states:
                states.append(state)
        if "[*]" not in (source, target):
            edges.append((source, target, what))
    return states, first, edges


def placed(states, edges):
    """Each edge with a lane in which no other one passes the same rows on its side."""
    taken = {True: [], False: []}
    found = []
    by_length = sorted(enumerate(edges, 1), key=lambda each: abs(states.index(each[1][0]) - states.index(each[1][1])))
    for number, (source, target, _) in by_length:
        start, end = states.index(source), states.index(target)
        span, lanes = (min(start, end), max(start, end)), taken[end < start]
        lane = 0
        while any(lane == other and span[0] <= last and first <= span[1] for other, first, last in lanes):
            lane += 1
        lanes.append((lane, *span))
        found.append(Edge(number, start, end, lane))
    return sorted(found, key=lambda edge: edge.number)


def drawn(states, first, edges):
    """The SVG."""
    arrows = placed(states, edges)
    lanes = {side: 1 + max([edge.lane for edge in arrows if edge.goes_up == side], default=0) for side in (True, False)}
    left = EDGE + lanes[True] * LANE + 10
    width, height = left + BOX + lanes[False] * LANE + 10 + EDGE, len(states) * ROW
    parts = [_box(state, left, index * ROW, state == first) for index, state in enumerate(states)]
    parts += [_arrow(edge, left) for edge in arrows]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="states" width="{width}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="States and transitions, as in the table below">{"".join(parts)}</svg>'
    )


def _box(state, left, top, is_first):
    weight = ' stroke-width="2.5"' if is_first else ""
    return (
        f'<rect x="{left}" y="{top + 9}" width="{BOX}" height="28" rx="6"{weight}/>'
        f'<text x="{left + BOX / 2}" y="{top + 23}">{html.escape(state)}</text>'
    )


def _arrow(edge, left):
    side = -1 if edge.goes_up else 1
    near = left if edge.goes_up else left + BOX
    far = near + side * (18 + edge.lane * LANE)
    start, end = edge.source * ROW + 19, edge.target * ROW + 27
    middle = (start + end) / 2
    return (
        f'<path d="M{near} {start}H{far}V{end}H{near}"/>'
        f'<path class="head" d="M{near} {end}l{7 * side} -4v8z"/>'
        f'<circle cx="{far}" cy="{middle}" r="8"/><text class="n" x="{far}" y="{middle}">{edge.number}</text>'
    )


def table(edges):
    """What the numbers mean."""
    rows = "".join(
        f"<tr><td>{number}</td><td><code>{html.escape(source)}</code></td><td><code>{html.escape(target)}</code></td>"
        f"<td>{html.escape(what)}</td></tr>"
        for number, (source, target, what) in enumerate(edges, 1)
    )
    head = "<tr><th></th><th>from</th><th>to</th><th>when</th></tr>"
    return f'<table class="docutils"><thead>{head}</thead><tbody>{rows}</tbody></table>'


STYLE = """<style>svg.states{max-width:100%;height:auto}svg.states rect,svg.states path{fill:none;stroke:currentColor}
svg.states .head{fill:currentColor}svg.states circle{fill:var(--color-background-primary);stroke:currentColor}
svg.states text{fill:currentColor;font:12px monospace;text-anchor:middle;dominant-baseline:central}
svg.states text.n{font-size:10px}</style>"""


class Mermaid(SphinxDirective):
    """A fence of `mermaid` with a state diagram; another kind of diagram is an error."""

    has_content = True

    def run(self):
        """See docutils."""
        if self.content[0].strip() != "stateDiagram-v2":
            raise self.error(f"only stateDiagram-v2 can be drawn, this is {self.content[0]}")
        states, first, edges = parsed(self.content[1:])
        return [nodes.raw("", STYLE + drawn(states, first, edges) + table(edges), format="html")]


def setup(app):
    """See Sphinx."""
    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
