//! The results as pictures.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Curve, Goal, Ratio};

const WIDTH: i32 = 1500;
const ROW: i32 = 22;
/// Where the bars are, between the names and the figures.
const LEFT: i32 = 690;
const RIGHT: i32 = 1330;
const TOP: i32 = 64;

const REACHED: RGBColor = RGBColor(70, 150, 90);
const MISSED: RGBColor = RGBColor(205, 90, 70);
const PLAIN: RGBColor = RGBColor(110, 140, 190);
const FAINT: RGBColor = RGBColor(215, 215, 215);

/// Pixels of a file.
struct Picture<'a>(DrawingArea<BitMapBackend<'a>, Shift>);

impl<'a> Picture<'a> {
    fn new(path: &'a Path, width: i32, height: i32) -> Self {
        // Part of this program: a bare Debian has no font.
        let registered = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
        assert!(registered.is_ok(), "the font is one");
        let area = BitMapBackend::new(path, (width as u32, height as u32)).into_drawing_area();
        area.fill(&WHITE).expect("a picture can be drawn");
        Self(area)
    }

    fn text(&self, text: &str, x: i32, y: i32, align: HPos, size: i32) {
        let style = ("sans-serif", size).into_text_style(&self.0).pos(Pos::new(align, VPos::Center));
        self.0.draw_text(text, &style, (x, y)).expect("a picture can be drawn");
    }

    fn line(&self, points: Vec<(i32, i32)>, color: RGBColor, width: u32) {
        self.0.draw(&PathElement::new(points, color.stroke_width(width))).expect("a picture can be drawn");
    }

    fn bar(&self, x: [i32; 2], y: [i32; 2], color: RGBColor) {
        let corners = [(x[0].min(x[1]), y[0]), (x[0].max(x[1]), y[1])];
        self.0.draw(&Rectangle::new(corners, color.filled())).expect("a picture can be drawn");
    }

    fn finish(self) {
        self.0.present().expect("a picture can be written");
    }
}

/// A logarithmic axis from one pixel to another.
struct Axis {
    from: f64,
    to: f64,
    pixels: [i32; 2],
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, pixels: [i32; 2]) -> Self {
        let logs = values.filter(|value| value.is_finite() && *value > 0.0).map(f64::log10);
        let (from, to) = logs.fold((f64::MAX, f64::MIN), |(from, to), log| (from.min(log), to.max(log)));
        Self { from: from - 0.05, to: to + 0.05, pixels }
    }

    fn at(&self, value: f64) -> i32 {
        let [low, high] = self.pixels;
        let part = ((value.max(1e-12).log10() - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        low + (part * f64::from(high - low)) as i32
    }

    /// 1, 2 and 5 of each power of ten, or the powers alone where they are many.
    fn ticks(&self) -> Vec<f64> {
        let digits: &[f64] = if self.to - self.from > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = self.from.floor() as i32..=self.to.ceil() as i32;
        let ticks = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        ticks.filter(|tick| (self.from..=self.to).contains(&tick.log10())).collect()
    }
}

/// A number with the digits that tell something.
fn short(value: f64) -> String {
    match value {
        value if !value.is_finite() => "∞".to_owned(),
        value if value >= 1e5 => format!("{value:.0e}"),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        value => format!("{value:.3}").trim_end_matches('0').to_owned(),
    }
}

/// Bars of median ratios, from 1 on, with what lies between the least and the greatest, and where the goal is.
pub fn bars(path: &Path, title: &str, ratios: &[&Ratio]) {
    let bottom = TOP + ROW * i32::try_from(ratios.len()).expect("few");
    let picture = Picture::new(path, WIDTH, bottom + 40);
    let goals = ratios.iter().filter_map(|ratio| ratio.goal).map(Goal::bound);
    let axis = Axis::over(ratios.iter().flat_map(|ratio| ratio.ratios).chain(goals).chain([0.5, 2.0]), [LEFT, RIGHT]);
    picture.text(title, 16, 24, HPos::Left, 22);
    for tick in axis.ticks() {
        let x = axis.at(tick);
        picture.line(vec![(x, TOP - 6), (x, bottom)], FAINT, 1);
        picture.text(&short(tick), x, bottom + 14, HPos::Center, 13);
    }
    for (place, ratio) in (0..).zip(ratios) {
        let y = TOP + ROW * place + ROW / 2;
        let [least, middle, greatest] = ratio.ratios;
        let color = match ratio.goal {
            None => PLAIN,
            Some(goal) if goal.is_reached_by(middle) => REACHED,
            Some(_) => MISSED,
        };
        picture.text(&ratio.name, LEFT - 10, y, HPos::Right, 13);
        picture.bar([axis.at(1.0), axis.at(middle)], [y - 7, y + 7], color);
        picture.line(vec![(axis.at(least), y), (axis.at(greatest), y)], BLACK, 1);
        for end in [least, greatest] {
            picture.line(vec![(axis.at(end), y - 4), (axis.at(end), y + 4)], BLACK, 1);
        }
        if let Some(goal) = ratio.goal {
            let x = axis.at(goal.bound());
            picture.line(vec![(x, y - ROW / 2 + 1), (x, y + ROW / 2 - 1)], BLACK, 3);
        }
        let goal = ratio.goal.map(|goal| format!("  ({goal})")).unwrap_or_default();
        picture.text(&format!("{}×{goal}", short(middle)), RIGHT + 14, y, HPos::Left, 13);
    }
    picture.line(vec![(axis.at(1.0), TOP - 6), (axis.at(1.0), bottom)], BLACK, 1);
    picture.finish();
}

/// Medians over the size of what grows, both logarithmic.
pub fn curve(path: &Path, curve: &Curve) {
    let (width, height) = (900, 600);
    let picture = Picture::new(path, width, height);
    let points: Vec<_> = curve.points.iter().filter(|(x, _)| *x > 0.0).collect();
    let across = Axis::over(points.iter().map(|(x, _)| *x), [90, width - 30]);
    let up = Axis::over(points.iter().flat_map(|(_, values)| *values), [height - 70, 70]);
    picture.text(&curve.title(), 16, 24, HPos::Left, 17);
    for tick in across.ticks() {
        let x = across.at(tick);
        picture.line(vec![(x, 70), (x, height - 70)], FAINT, 1);
        picture.text(&short(tick), x, height - 54, HPos::Center, 13);
    }
    for tick in up.ticks() {
        let y = up.at(tick);
        picture.line(vec![(90, y), (width - 30, y)], FAINT, 1);
        picture.text(&short(tick), 82, y, HPos::Right, 13);
    }
    picture.text(curve.unit, 82, 52, HPos::Right, 13);
    picture.text(curve.grows, width / 2, height - 26, HPos::Center, 15);
    for (x, [least, _, greatest]) in &points {
        picture.line(vec![(across.at(*x), up.at(*least)), (across.at(*x), up.at(*greatest))], BLACK, 1);
    }
    let line = points.iter().map(|(x, [_, middle, _])| (across.at(*x), up.at(*middle))).collect();
    picture.line(line, PLAIN, 3);
    for (x, [_, middle, _]) in &points {
        let (x, y) = (across.at(*x), up.at(*middle));
        picture.bar([x - 3, x + 3], [y - 3, y + 3], PLAIN);
    }
    picture.finish();
}
