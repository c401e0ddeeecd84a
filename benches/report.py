"""Samples to numbers, a markdown text and a plot. No measuring here."""

import os
import platform
import statistics
import subprocess
from xml.sax.saxutils import escape

VERBS = ("create", "state", "start", "exec", "kill", "delete")
METRICS = (("wall", "wall time", "ms"), ("cpu", "CPU time", "ms"), ("rss", "peak memory", "MiB"))
COLOURS = {"bulkhead": "#2a6fbb", "crun": "#d9822b", "runc": "#3d9a50", "floor": "#8a8f98", "bare": "#c4c8ce"}
OTHERS = ("#8e5bb5", "#c0504d", "#2aa1a1")


def machine():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "unknown")
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "model": model}


def versions(runtimes):
    out = {}
    for name, path in runtimes.items():
        if name == "floor":
            out[name] = "benches/floor.c"
            continue
        try:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20).stdout.split("\n")[0]
        except (OSError, subprocess.TimeoutExpired):
            said = "version unknown"
        out[name] = f"{said} ({path})"
    return out


def scale(metric, value):
    return value / 1024 if metric == "rss" else value


def summary(samples, metric):
    """Median, quartiles, minimum of one metric; None without samples."""
    values = sorted(scale(metric, s[metric]) for s in samples if metric in s)
    if not values:
        return None
    if len(values) == 1:
        return values[0], values[0], values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return statistics.median(values), low, high, values[0]


def names(data, view):
    return [n for n in data["runtimes"] if any(n in by for by in view["samples"].values())]


def cell(samples, metric):
    s = summary(samples, metric)
    return f"{s[0]:.2f} ({s[1]:.2f} to {s[2]:.2f})" if s else "-"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows]) + "\n"


def noise(view):
    s = view["samples"].get("bare", {}).get("bare", [])
    values = sorted(x["wall"] for x in s)
    if len(values) < 4:
        return "too few rounds to tell the noise"
    median, low, high, _ = summary(s, "wall")
    return (f"the bare program, without a container, took {median:.2f} ms in the median, half of its runs between "
            f"{low:.2f} and {high:.2f} ms ({(high - low) / median * 100:.0f} % apart), the slowest {values[-1]:.2f} ms; load average "
            f"{view['load'][0]:.2f} before and {view['load'][-1]:.2f} after")


def run_rows(data, view, what):
    floor = summary(view["samples"].get(what, {}).get("floor", []), "wall")
    for n in names(data, view):
        samples = view["samples"].get(what, {}).get(n, [])
        if not samples:
            continue
        wall = summary(samples, "wall")
        ratio = f"{wall[0] / floor[0]:.2f}" if floor else "-"
        yield [n, cell(samples, "wall"), f"{wall[3]:.2f}", ratio, cell(samples, "cpu"), cell(samples, "rss")]


def markdown(data):
    m = data["machine"]
    out = [f"Kernel {m['kernel']}, {m['cpus']} processors, {m['model']}. Medians, quartiles in brackets; times in ms, memory in MiB.\n"]
    out += [f"- {n}: {v}" for n, v in data["runtimes"].items()]
    out += [f"- {n}: skipped, {why}" for n, why in data["absent"].items()]
    for view in data["views"]:
        out.append(f"\n## Cgroup view: {view['view']}, {view['rounds']} interleaved rounds, {view['pause']} s of rest before each measurement\n")
        out.append(f"Noise: {noise(view)}.\n")
        for what in [w for w in view["samples"] if w.startswith("run ")]:
            out.append(f"### `{what.split()[0]}`, {what.split()[1]} bundle\n")
            head = ["", "wall", "fastest", "x floor", "CPU", "largest process, peak RSS"]
            out.append(table(head, run_rows(data, view, what)))
        with_verbs = [n for n in names(data, view) if n in view["samples"].get("create", {})]
        if with_verbs:
            out.append("### Each verb on its own, default bundle\n")
            for metric, title, unit in METRICS:
                rows = [[v] + [cell(view["samples"][v].get(n, []), metric) for n in with_verbs] for v in VERBS if v in view["samples"]]
                out.append(table([f"{title}, {unit}", *with_verbs], rows))
            out.append("### The process that waits to become the container, after `create`\n")
            rows = []
            for n in with_verbs:
                s = view["samples"]["waiting"][n]
                med = {k: statistics.median(x[k] for x in s) / 1024 for k in s[0]}
                peak = f"{med['cgroup']:.2f}" if "cgroup" in med else "-"
                rows.append([n, f"{med['hwm']:.2f}", f"{med['anon']:.2f}", peak])
            out.append(table(["MiB", "VmHWM", "RssAnon", "its cgroup's peak charge"], rows))
        if view["limits"]:
            out.append(f"### Smallest `memory.limit` that starts the program ({view['limit_tries']} of {view['limit_tries']} tries)\n")
            rows = [[n, f"{k} KiB" if k else "none up to 128 MiB", "yes" if k and k <= 1024 else "no"] for n, k in view["limits"].items()]
            out.append(table(["", "smallest power of two", "starts with 1 MiB"], rows))
        out += [f"- skipped: {what}: {why}" for what, why in view["skipped"].items()]
        out += [f"- failed once: {f}" for f in view["failures"]]
    return "\n".join(out) + "\n"


# The plot: panels of horizontal bars, the quartiles as a thin line over each bar's end.

WIDTH, PANEL, GAP, LEFT, RIGHT, BAR = 1180, 560, 20, 95, 110, 18


def panel(x, y, title, groups, colour):
    """Draws one panel, (group label, [(name, summary)]); returns its elements and its height."""
    top = max((s[2] for _, bars in groups for _, s in bars), default=1) or 1
    span = PANEL - LEFT - RIGHT - 20
    out = [f'<text x="{x + 12}" y="{y + 22}" class="t">{escape(title)}</text>']
    at = y + 36
    for label, bars in groups:
        if label:
            out.append(f'<text x="{x + 12}" y="{at + 13}" class="g">{escape(label)}</text>')
            at += 18
        for name, (median, low, high, _) in bars:
            w, a, b = (v / top * span for v in (median, low, high))
            mid = at + BAR / 2
            left = x + LEFT + 10
            out.append(f'<text x="{left - 6}" y="{mid + 4}" class="n">{escape(name)}</text>')
            out.append(f'<rect x="{left}" y="{at + 2}" width="{max(w, 1):.1f}" height="{BAR - 4}" fill="{colour[name]}"/>')
            out.append(f'<path d="M{left + a:.1f} {mid}H{left + b:.1f}M{left + a:.1f} {mid - 4}v8M{left + b:.1f} {mid - 4}v8" class="q"/>')
            out.append(f'<text x="{left + max(w, b) + 8:.1f}" y="{mid + 4}" class="v">{median:{"d" if isinstance(median, int) else ".2f"}}</text>')
            at += BAR
        at += 6
    height = at - y + 6
    frame = f'<rect x="{x}" y="{y}" width="{PANEL}" height="{height}" rx="6" class="p"/>'
    return [frame, *out], height


def svg(data):
    view = data["views"][0]
    colour = dict(COLOURS)
    spare = iter(OTHERS * 10)
    for n in data["runtimes"]:
        colour.setdefault(n, next(spare) if n not in colour else None)
    samples = view["samples"]

    def group(what, metric, label=""):
        got = [(n, summary(samples.get(what, {}).get(n, []), metric)) for n in names(data, view)]
        return label, [(n, s) for n, s in got if s]

    rows = []
    runs = [w for w in samples if w.startswith("run ")]
    for metric, title, unit in METRICS:
        rows.append([(f"run, {w.split()[1]} bundle: {title} ({unit})", [group(w, metric)]) for w in runs])
    if "create" in samples:
        rows.append([(f"each verb: {title} ({unit})", [group(v, metric, v) for v in VERBS]) for metric, title, unit in METRICS[:2]])
        # As "rss" the numbers take the same road as the others.
        as_rss = {n: [{"rss": x["hwm"]} for x in s] for n, s in samples["waiting"].items()}
        waiting = [(n, summary(as_rss[n], "rss")) for n in names(data, view) if n in as_rss]
        last = [("the waiting container process: VmHWM (MiB)", [("", waiting)])]
        limits = [(n, (k,) * 4) for n, k in view["limits"].items() if k]
        if limits:
            last.append(("smallest memory.limit that starts the program (KiB)", [("", limits)]))
        rows.append(last)
    body, y = [], 84
    for row in rows:
        tallest = 0
        for i, (title, groups) in enumerate(row):
            elements, height = panel(GAP + i * (PANEL + GAP), y, title, groups, colour)
            body += elements
            tallest = max(tallest, height)
        y += tallest + GAP
    m = data["machine"]
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" font-family="DejaVu Sans, Verdana, sans-serif">',
        "<style>.t{font-size:15px;font-weight:bold;fill:#1c2430}.g{font-size:12px;font-weight:bold;fill:#48525f}"
        ".n{font-size:12px;fill:#1c2430;text-anchor:end}.v{font-size:12px;fill:#1c2430}.s{font-size:12px;fill:#48525f}"
        ".q{stroke:#1c2430;stroke-width:1.2;fill:none}.p{fill:#fff;stroke:#d5dae1}</style>",
        f'<rect width="{WIDTH}" height="{y}" fill="#f6f7f9"/>',
        f'<text x="{GAP}" y="34" font-size="20" font-weight="bold" fill="#1c2430">Starting the smallest program in a container</text>',
        f'<text x="{GAP}" y="56" class="s">Medians of {view["rounds"]} interleaved rounds, {view["pause"]} s of rest before each; less is better; the thin line spans the quartiles. '
        f'Cgroup view {view["view"]}, kernel {escape(m["kernel"])}, {m["cpus"]} processors.</text>',
    ]
    return "\n".join([*head, *body, "</svg>"]) + "\n"
