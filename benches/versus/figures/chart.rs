//! A bar chart in SVG: for each cell a bar per server, with the spread of its rounds as a line.

use std::fmt::Write;

use super::spread::Spread;

/// A group of bars.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) title: String,
    /// By the index of a name in the chart's legend.
    pub(crate) bars: Vec<(usize, Spread)>,
}

/// What is drawn.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// What a length means.
    pub(crate) unit: String,
    pub(crate) legend: Vec<String>,
    pub(crate) groups: Vec<Group>,
}

impl Chart {
    /// The whole file. Lengths begin at 0, so that a bar twice as long is twice as much; a line at 1
    /// stands for the server that all are compared with.
    pub(crate) fn svg(&self) -> String {
        let mut body = String::new();
        let longest = self
            .groups
            .iter()
            .flat_map(|group| &group.bars)
            .map(|(_, spread)| spread.max)
            .filter(|value| value.is_finite())
            .fold(1.0, f64::max);
        let scale = f64::from(BARS_WIDTH) / longest;
        let mut y = self.heading(&mut body);
        let top = y;
        for group in &self.groups {
            let middle = y + self.height(group) / 2;
            text(&mut body, LABELS_WIDTH - GAP, middle, "end", &group.title);
            for &(name, spread) in &group.bars {
                bar(&mut body, y, colour(name), spread, scale);
                y += BAR_HEIGHT;
            }
            y += GAP;
        }
        let one = f64::from(LABELS_WIDTH) + scale;
        // Writing to a String cannot fail.
        let _ = writeln!(
            body,
            r##"<line x1="{one:.1}" y1="{top}" x2="{one:.1}" y2="{y}" stroke="#444" stroke-dasharray="3 3"/>"##
        );
        let (width, height) = (LABELS_WIDTH + BARS_WIDTH + FIGURES_WIDTH, y + GAP);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
        )
    }

    /// Title, unit and legend; gives where the bars begin.
    fn heading(&self, body: &mut String) -> u32 {
        text(body, GAP, LINE_HEIGHT, "start", &self.title);
        text(body, GAP, 2 * LINE_HEIGHT, "start", &self.unit);
        let mut x = LABELS_WIDTH;
        for (index, name) in self.legend.iter().enumerate() {
            let y = 3 * LINE_HEIGHT;
            let _ = writeln!(
                body,
                r#"<rect x="{x}" y="{}" width="10" height="10" fill="{}"/>"#,
                y - 9,
                colour(index)
            );
            text(body, x + 14, y, "start", name);
            x += LEGEND_WIDTH;
        }
        4 * LINE_HEIGHT
    }

    fn height(&self, group: &Group) -> u32 {
        // Servers are few.
        BAR_HEIGHT * u32::try_from(group.bars.len()).unwrap_or(0)
    }
}

fn bar(body: &mut String, y: u32, colour: &str, spread: Spread, scale: f64) {
    let finite = |value: f64| if value.is_finite() { value } else { 0.0 };
    let x = f64::from(LABELS_WIDTH);
    let (min, median, max) = (
        x + finite(spread.min) * scale,
        x + finite(spread.median) * scale,
        x + finite(spread.max) * scale,
    );
    let middle = y + BAR_HEIGHT / 2;
    let _ = writeln!(
        body,
        r##"<rect x="{x:.1}" y="{y}" width="{:.1}" height="{}" fill="{colour}"/><line x1="{min:.1}" y1="{middle}" x2="{max:.1}" y2="{middle}" stroke="#000"/>"##,
        median - x,
        BAR_HEIGHT - 2,
    );
    let figures = format!("{:.2} ({:.2}–{:.2})", spread.median, spread.min, spread.max);
    let _ = writeln!(
        body,
        r#"<text x="{:.1}" y="{}" text-anchor="start">{}</text>"#,
        max.max(median) + 4.0,
        y + BAR_HEIGHT - 4,
        escaped(&figures)
    );
}

fn text(body: &mut String, x: u32, y: u32, anchor: &str, what: &str) {
    let _ = writeln!(
        body,
        r#"<text x="{x}" y="{y}" text-anchor="{anchor}">{}</text>"#,
        escaped(what)
    );
}

/// `text` as character data, in which five characters have a meaning (XML 1.0, 2.4), and control
/// characters no place (2.2).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Colours that the colour-blind tell apart; they begin again after the last.
fn colour(index: usize) -> &'static str {
    COLOURS
        .get(index % COLOURS.len())
        .copied()
        .unwrap_or("#000000")
}

const COLOURS: [&str; 7] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999",
];

const LABELS_WIDTH: u32 = 380;
const BARS_WIDTH: u32 = 480;
/// For the figures beside the longest bar.
const FIGURES_WIDTH: u32 = 140;
const LEGEND_WIDTH: u32 = 120;
const BAR_HEIGHT: u32 = 14;
const LINE_HEIGHT: u32 = 18;
const GAP: u32 = 10;
