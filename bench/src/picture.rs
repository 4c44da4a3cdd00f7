//! The results as a picture: a panel for each kind of mark, a bar for each target, each with its
//! multiple of Vestibule. SVG by hand, readable in light and dark.

use std::fmt::Write;
use std::path::Path;

use crate::error::BenchError;
use crate::figures::{Figure, Metric, Part, Subject, metric_named};
use crate::results::Results;
use crate::scenario::{Scenario, Size};
use crate::target::Target;

/// Measures of the picture, in its own units.
const WIDTH: f64 = 880.0;
const MARGIN: f64 = 24.0;
const NAME_LEFT: f64 = 130.0;
const BAR_LEFT: f64 = 206.0;
const BAR_WIDTH: f64 = 430.0;
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
const GROUP_GAP: f64 = 8.0;
const PANEL_GAP: f64 = 34.0;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.paper { fill: #ffffff }
.title { font-size: 15px; font-weight: 600 }
.quiet { fill: #59636e }
.bar { fill: #afb8c1 }
.ours { fill: #0969da }
.floor { fill: #d1d9e0 }
.range { stroke: #1f2328; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .paper { fill: #0d1117 }
  .quiet { fill: #9198a1 }
  .bar { fill: #656c76 }
  .ours { fill: #4493f8 }
  .floor { fill: #3d444d }
  .range { stroke: #f0f6fc }
}
";

/// One question, asked of all targets.
struct Panel {
    title: &'static str,
    metric: &'static str,
    part: Part,
    /// Each with its name; empty where there is one.
    groups: &'static [(&'static str, Scenario)],
}

const BULK: &[(&str, Scenario)] = &[("up", Scenario::BulkUp), ("down", Scenario::BulkDown)];
const PLAIN: &[(&str, Scenario)] = &[("up", Scenario::PlainUp), ("down", Scenario::PlainDown)];
const PASSTHROUGH: &[(&str, Scenario)] =
    &[("up", Scenario::PassthroughUp), ("down", Scenario::PassthroughDown)];

const PANELS: [Panel; 13] = [
    panel("Bulk, TLS to TLS: CPU of the gateway", "CPU-s/GB", Part::Gateway, BULK),
    panel("Bulk, TLS to TLS: throughput (more is better)", "GB/s", Part::Gateway, BULK),
    panel("Bulk, plain agents to TLS: CPU of the gateway", "CPU-s/GB", Part::Gateway, PLAIN),
    panel("Bulk, agents' TLS through: CPU of the gateway", "CPU-s/GB", Part::Gateway, PASSTHROUGH),
    panel(
        "Bulk, agents' TLS through: CPU of the whole machine",
        "machine CPU-s/GB",
        Part::Gateway,
        PASSTHROUGH,
    ),
    panel(
        "New session, full handshake: CPU of the gateway",
        "CPU-ms/session",
        Part::Gateway,
        &[("", Scenario::SessionRate)],
    ),
    panel(
        "New session, full handshake: from connect to echo",
        "p99 ms",
        Part::Gateway,
        &[("", Scenario::SessionRate)],
    ),
    panel(
        "New session of a plain agent: CPU of gateway and server together",
        "CPU-ms/session",
        Part::Together,
        &[("", Scenario::PlainSessionRate)],
    ),
    panel(
        "Session at rest after 1 MB each way: memory of the gateway (rathole: plain)",
        "RSS KB/session",
        Part::Gateway,
        &[("", Scenario::Idle)],
    ),
    panel(
        "500 sessions of 4 messages/s beside 2 bulk ones: from due to echo",
        "p99.9 ms",
        Part::Gateway,
        &[("", Scenario::Latency)],
    ),
    panel(
        "The 2 bulk sessions beside them: throughput (more is better)",
        "GB/s",
        Part::Gateway,
        &[("", Scenario::Latency)],
    ),
    panel(
        "4,000 messages/s: CPU of the gateway",
        "CPU-µs/message",
        Part::Gateway,
        &[("500 sessions", Scenario::MessagesFew), ("9,000 sessions", Scenario::MessagesMany)],
    ),
    panel(
        "64 busy sessions: system calls of the gateway",
        "syscalls/message",
        Part::Gateway,
        &[("", Scenario::Syscalls)],
    ),
];

const fn panel(
    title: &'static str,
    metric: &'static str,
    part: Part,
    groups: &'static [(&'static str, Scenario)],
) -> Panel {
    Panel { title, metric, part, groups }
}

/// A target in one group of a panel.
struct Bar {
    group: &'static str,
    target: Target,
    metric: Metric,
    figure: Figure,
    multiple: Option<Figure>,
}

/// Draws and writes it.
pub(crate) fn write(results: &Results, path: &Path) -> Result<(), BenchError> {
    std::fs::write(path, draw(results))
        .map_err(BenchError::io(format!("writing {}", path.display())))
}

fn draw(results: &Results) -> String {
    let mut body = String::new();
    let mut y = MARGIN + 14.0;
    text(&mut body, MARGIN, y, "title", "Vestibule beside its peers, one thread each");
    y += ROW;
    text(&mut body, MARGIN, y, "quiet", &caption(results));
    y += PANEL_GAP;
    for panel in &PANELS {
        let bars = panel.bars(results);
        if !bars.is_empty() {
            y = panel.draw(&mut body, y, &bars) + PANEL_GAP;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" role=\"img\">\n\
         <title>Vestibule beside its peers</title>\n<style>\n{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{y}\"/>\n{body}</svg>\n"
    )
}

fn caption(results: &Results) -> String {
    let machine = &results.machine;
    let day = machine.date.split('T').next().unwrap_or_default();
    let mut caption = format!(
        "{day}, {}, {} cores, Linux {}; medians and ranges, multiples of Vestibule",
        machine.cpu, machine.cores, machine.kernel
    );
    if results.size == Size::Quick {
        caption.push_str(". Taken with --quick: no figures");
    }
    caption
}

impl Panel {
    fn bars(&self, results: &Results) -> Vec<Bar> {
        let mut bars = Vec::new();
        for &(group, scenario) in self.groups {
            let Some(metric) = metric_named(scenario, self.metric) else { continue };
            for target in results.targets() {
                let ours = Subject { scenario, target: Target::Vestibule, part: self.part, metric };
                let subject = ours.on(target);
                let Some(figure) = subject.figure(results) else { continue };
                let multiple = subject.over(ours, results);
                bars.push(Bar { group, target, metric, figure, multiple });
            }
        }
        bars
    }

    /// Returns where it ends.
    fn draw(&self, out: &mut String, top: f64, bars: &[Bar]) -> f64 {
        let largest = bars.iter().map(|bar| bar.figure.max).fold(f64::MIN_POSITIVE, f64::max);
        text(out, MARGIN, top, "title", &format!("{}, {}", self.title, self.metric));
        let mut y = top + ROW;
        let mut group = "";
        for (number, bar) in bars.iter().enumerate() {
            if bar.group != group {
                y += if number == 0 { 0.0 } else { GROUP_GAP };
                group = bar.group;
                text(out, MARGIN, y, "quiet", group);
            }
            bar.draw(out, y, BAR_WIDTH / largest);
            y += ROW;
        }
        y - ROW
    }
}

impl Bar {
    fn draw(&self, out: &mut String, y: f64, scale: f64) {
        let class = match self.target {
            Target::Vestibule => "ours",
            Target::Floor => "floor",
            _ => "bar",
        };
        let Figure { median, min, max } = self.figure;
        // Memory may shrink by noise; a bar has no negative width.
        let width = (median * scale).max(0.0);
        let (top, middle) = (y - BAR + 2.0, y - BAR / 2.0 + 2.0);
        let (from, to) = (BAR_LEFT + (min * scale).max(0.0), BAR_LEFT + (max * scale).max(0.0));
        text(out, NAME_LEFT, y, "", self.target.name());
        writeln!(
            out,
            "<rect class=\"{class}\" x=\"{BAR_LEFT}\" y=\"{top}\" width=\"{width:.1}\" \
             height=\"{BAR}\" rx=\"2\"/>\n<line class=\"range\" x1=\"{from:.1}\" x2=\"{to:.1}\" \
             y1=\"{middle}\" y2=\"{middle}\"/>"
        )
        .expect("writing to a string does not fail");
        let decimals = self.metric.decimals.min(2);
        text(out, BAR_LEFT + BAR_WIDTH + 16.0, y, "", &format!("{median:.decimals$}"));
        if let Some(multiple) = self.multiple.filter(|_| self.target != Target::Vestibule) {
            let multiple = format!("× {:.2}", multiple.median);
            text(out, BAR_LEFT + BAR_WIDTH + 100.0, y, "quiet", &multiple);
        }
    }
}

fn text(out: &mut String, x: f64, y: f64, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(out, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>")
        .expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{bulk, results};

    #[test]
    fn every_panel_asks_for_a_metric_that_its_scenarios_have() {
        for panel in &PANELS {
            for (_, scenario) in panel.groups {
                assert!(metric_named(*scenario, panel.metric).is_some(), "{}", panel.title);
            }
        }
    }

    #[test]
    fn a_bar_shows_its_figure_and_how_many_times_ours_it_is() {
        let picture = draw(&results(vec![
            bulk(Target::Vestibule, "gateway", 0, 2),
            bulk(Target::Haproxy, "gateway", 0, 5),
        ]));
        assert!(picture.contains(">haproxy</text>") && picture.contains(">2.44</text>"));
        assert_eq!(picture.matches("× 2.50").count(), 1, "{picture}");
        assert!(!picture.contains("New session"), "no panel without bars");
    }
}
