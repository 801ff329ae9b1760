//! All figures of a run as Markdown tables, for docs/benchmarks.md.

use super::report::{Curve, Ratio};

/// Three digits that tell something.
fn short(value: f64) -> String {
    match value {
        value if !value.is_finite() => "∞".to_owned(),
        value if value.abs() >= 99.95 => format!("{value:.0}"),
        value if value.abs() >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn verdict(goal: String, is_reached: bool) -> String {
    if is_reached { goal } else { format!("{goal}, missed") }
}

/// A table of the ratios of one group.
pub fn ratios(group: &str, ratios: &[&Ratio]) -> String {
    let mut text = format!("\n## {group}\n\n| measurement | ours | peer | ratio | least to greatest | runs | goal |\n");
    text += "|---|---|---|---|---|---|---|\n";
    for r in ratios {
        let [least, middle, greatest] = r.ratios;
        let goal = r.goal.map(|goal| verdict(goal.to_string(), goal.is_reached_by(middle))).unwrap_or_default();
        let [ours, peer, least, middle, greatest] = [r.ours, r.peer, least, middle, greatest].map(short);
        let (name, unit, runs) = (&r.name, r.unit, r.runs);
        text += &format!(
            "| {name} | {ours} {unit} | {peer} {unit} | {middle} | {least} to {greatest} | {runs} | {goal} |\n"
        );
    }
    text
}

/// A table of the curves.
pub fn curves(curves: &[Curve]) -> String {
    let mut text = "\n## curves\n\n| measurement | from | to | exponent | goal |\n|---|---|---|---|---|\n".to_owned();
    for curve in curves {
        let point = |(size, values): &(f64, [f64; 3])| format!("{size}: {} {}", short(values[1]), curve.unit);
        let ends = [curve.points.first(), curve.points.last()].map(|end| end.map(point).unwrap_or_default());
        let goal = curve.goal.map(|goal| verdict(format!("<= {goal}"), curve.exponent() <= goal)).unwrap_or_default();
        text += &format!("| {} | {} | {} | {:.2} | {goal} |\n", curve.name, ends[0], ends[1], curve.exponent());
    }
    text
}
