//! What was measured: printed as it comes, and written as CSV.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fmt, fs};

use super::measure::Cost;
use super::{charts, summary};

/// What the ratio should be.
#[derive(Clone, Copy)]
pub enum Goal {
    /// Of what costs.
    AtMost(f64),
    /// Of what is gained.
    AtLeast(f64),
}

/// Goals for the three parts of a cost, all of them upper ones.
#[derive(Clone, Copy, Default)]
pub struct Goals {
    pub wall: Option<f64>,
    pub cpu: Option<f64>,
    pub wal: Option<f64>,
}

/// One of the figures of a cost.
struct Part {
    name: &'static str,
    unit: &'static str,
    value: fn(&Cost) -> f64,
}

const CPU: Part = Part { name: "CPU", unit: "µs", value: |cost| cost.cpu };
const WAL: Part = Part { name: "WAL", unit: "B", value: |cost| cost.wal };
const WALL: Part = Part { name: "wall time", unit: "µs", value: |cost| cost.wall };

impl Part {
    fn of(&self, costs: &[Cost]) -> Vec<f64> {
        costs.iter().map(self.value).collect()
    }
}

/// A peer by its name.
pub struct Against(pub &'static str);

/// One measurement: ours against a peer, each measured as often and interleaved.
pub struct Ratio {
    /// The part of the benchmark, which names its file.
    pub group: &'static str,
    /// What was measured, and against whom.
    pub name: String,
    /// Of the two figures.
    pub unit: &'static str,
    /// Medians.
    pub ours: f64,
    /// Of the peer.
    pub peer: f64,
    /// Of the ratios of each pair: least, median, greatest.
    pub ratios: [f64; 3],
    /// Pairs.
    pub runs: usize,
    /// Where there is one.
    pub goal: Option<Goal>,
}

impl Goal {
    pub fn bound(self) -> f64 {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) => bound,
        }
    }

    pub fn is_reached_by(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(bound) => ratio <= bound,
            Self::AtLeast(bound) => ratio >= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
        }
    }
}

/// What something costs as something else grows.
pub struct Curve {
    /// What is measured.
    pub name: &'static str,
    /// What grows.
    pub grows: &'static str,
    /// Of what is measured.
    pub unit: &'static str,
    /// Size, and least, median and greatest of what was measured.
    pub points: Vec<(f64, [f64; 3])>,
    /// The exponent that it should keep below, where there is one.
    pub goal: Option<f64>,
}

impl Curve {
    /// The slope in logarithms over the upper half of the sizes: below, what every call costs hides it.
    pub fn exponent(&self) -> f64 {
        let logs = self.points.iter().filter(|(x, _)| *x > 0.0).map(|(x, values)| (x.ln(), values[1].ln()));
        let logs: Vec<(f64, f64)> = logs.collect();
        let upper = &logs[logs.len() - (logs.len().div_ceil(2) + 1).min(logs.len())..];
        let mean = |value: fn(&(f64, f64)) -> f64| upper.iter().map(value).sum::<f64>() / upper.len() as f64;
        let (x, y) = (mean(|log| log.0), mean(|log| log.1));
        let across: f64 = upper.iter().map(|log| (log.0 - x).powi(2)).sum();
        upper.iter().map(|log| (log.0 - x) * (log.1 - y)).sum::<f64>() / across
    }

    pub fn title(&self) -> String {
        let goal = self.goal.map(|goal| format!(", goal {}", Goal::AtMost(goal))).unwrap_or_default();
        format!("{}: exponent {:.2}{goal}", self.name, self.exponent())
    }
}

/// All of a run.
#[derive(Default)]
pub struct Report {
    ratios: Vec<Ratio>,
    curves: Vec<Curve>,
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Report {
    /// Notes and prints what interleaved runs gave: `ours[n]` was measured beside `peer[n]`.
    pub fn ratio(
        &mut self,
        group: &'static str,
        name: &str,
        unit: &'static str,
        ours: &[f64],
        peer: &[f64],
        goal: Option<f64>,
    ) {
        self.note(group, name, unit, ours, peer, goal.map(Goal::AtMost));
    }

    /// Two ratios: CPU and time.
    pub fn times(&mut self, group: &'static str, name: &str, ours: &[Cost], peer: &[Cost], goal: Option<f64>) {
        for part in [CPU, WALL] {
            self.ratio(group, &format!("{name}: {}", part.name), part.unit, &part.of(ours), &part.of(peer), goal);
        }
    }

    /// Two ratios of what is done in a second, and in a second of CPU.
    pub fn rates(&mut self, group: &'static str, name: &str, ours: &[Cost], peer: &[Cost], goal: Option<f64>) {
        let rates = |part: &Part, costs: &[Cost]| part.of(costs).iter().map(|cost| 1e6 / cost).collect::<Vec<f64>>();
        for (part, name) in [(WALL, format!("{name} per second")), (CPU, format!("{name} per second of CPU"))] {
            let goal = goal.map(Goal::AtLeast);
            self.note(group, &name, "/s", &rates(&part, ours), &rates(&part, peer), goal);
        }
    }

    /// Three ratios: CPU, write-ahead log and time.
    pub fn costs(
        &mut self,
        group: &'static str,
        name: &str,
        peer_name: Against,
        ours: &[Cost],
        peer: &[Cost],
        goals: Goals,
    ) {
        for (part, goal) in [(CPU, goals.cpu), (WAL, goals.wal), (WALL, goals.wall)] {
            let name = format!("{name}, against {}: {}", peer_name.0, part.name);
            self.ratio(group, &name, part.unit, &part.of(ours), &part.of(peer), goal);
        }
    }

    fn note(
        &mut self,
        group: &'static str,
        name: &str,
        unit: &'static str,
        ours: &[f64],
        peer: &[f64],
        goal: Option<Goal>,
    ) {
        let mut pairs: Vec<f64> = ours.iter().zip(peer).map(|(ours, peer)| ours / peer).collect();
        pairs.sort_by(f64::total_cmp);
        let ratios = [pairs[0], median(&pairs), pairs[pairs.len() - 1]];
        let (ours, peer, runs) = (median(ours), median(peer), pairs.len());
        let verdict = match goal {
            Some(goal) if goal.is_reached_by(ratios[1]) => format!(", goal {goal} reached"),
            Some(goal) => format!(", goal {goal} MISSED"),
            None => String::new(),
        };
        let [least, middle, greatest] = ratios;
        println!(
            "{name:>86}: {ours:9.2} {unit} against {peer:9.2}: {middle:.2} ({least:.2} to {greatest:.2}, {runs} runs{verdict})"
        );
        self.ratios.push(Ratio { group, name: name.to_owned(), unit, ours, peer, ratios, runs, goal });
    }

    /// Notes and prints a curve.
    pub fn curve(&mut self, curve: Curve) {
        let verdict = match curve.goal {
            Some(goal) if curve.exponent() > goal => " MISSED",
            Some(_) => " reached",
            None => "",
        };
        println!("{}{verdict}", curve.title());
        for (size, [least, middle, greatest]) in &curve.points {
            println!("{size:>20} {}: {middle:.3} {} ({least:.3} to {greatest:.3})", curve.grows, curve.unit);
        }
        self.curves.push(curve);
    }

    /// Writes a CSV file and a chart for each group and each curve, and all of it as tables.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).expect("the folder of the results can be made");
        let groups: BTreeSet<&str> = self.ratios.iter().map(|ratio| ratio.group).collect();
        let mut tables = String::new();
        for group in groups {
            let ratios: Vec<&Ratio> = self.ratios.iter().filter(|ratio| ratio.group == group).collect();
            let mut text = "measurement,unit,ours,peer,ratio,least,greatest,runs,goal\n".to_owned();
            for r in &ratios {
                let [least, middle, greatest] = r.ratios;
                let goal = r.goal.map(|goal| goal.to_string()).unwrap_or_default();
                let (name, unit, ours, peer, runs) = (&r.name, r.unit, r.ours, r.peer, r.runs);
                text += &format!(
                    "\"{name}\",{unit},{ours:.4},{peer:.4},{middle:.4},{least:.4},{greatest:.4},{runs},{goal}\n"
                );
            }
            fs::write(folder.join(format!("{group}.csv")), text).expect("the results can be written");
            tables += &summary::ratios(group, &ratios);
            let title = format!("{group}: ratio of ours to the peer's; whiskers: least to greatest, thick mark: goal");
            charts::bars(&folder.join(format!("{group}.png")), &title, &ratios);
        }
        for curve in &self.curves {
            let mut text = format!("{},{} least,median,greatest\n", curve.grows, curve.unit);
            for (size, [least, middle, greatest]) in &curve.points {
                text += &format!("{size},{least:.4},{middle:.4},{greatest:.4}\n");
            }
            let words = curve.name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
            let file = format!("curve-{}", words.collect::<Vec<_>>().join("-"));
            fs::write(folder.join(format!("{file}.csv")), text).expect("the results can be written");
            charts::curve(&folder.join(format!("{file}.png")), curve);
        }
        if !self.curves.is_empty() {
            tables += &summary::curves(&self.curves);
        }
        fs::write(folder.join("summary.md"), tables.trim_start()).expect("the results can be written");
        println!("written to {}", folder.display());
    }
}
