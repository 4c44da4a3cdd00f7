//! Standard output: redrawn in place on a terminal, line after line elsewhere.

use std::io::{self, IsTerminal, Write};

use super::view::{self, Scene};

/// No wrapping of long lines: a wrapped line takes two rows, and the redraw would miss one.
const WRAP_OFF: &str = "\x1b[?7l";
const WRAP_ON: &str = "\x1b[?7h";
/// Everything from the cursor on.
const CLEAR_BELOW: &str = "\x1b[J";

/// Where the demo is shown.
#[derive(Debug)]
pub(super) struct Screen {
    is_terminal: bool,
    /// Rows of the last scene, which the next one takes the place of.
    rows: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), rows: 0 }
    }

    /// Prints text that stays.
    pub(super) fn print(&mut self, text: &str) -> io::Result<()> {
        self.rows = 0;
        write(text)
    }

    /// Shows a scene in the place of the last.
    pub(super) fn show(&mut self, scene: &Scene) -> io::Result<()> {
        if !self.is_terminal {
            return write(&view::line(scene));
        }
        let lines = view::lines(scene);
        let drawn = redraw(&lines, self.rows);
        self.rows = lines.lines().count();
        write(&drawn)
    }
}

/// `lines`, after the cursor has gone up over the `rows` before.
fn redraw(lines: &str, rows: usize) -> String {
    let up = if rows > 0 { format!("\x1b[{rows}F") } else { String::new() };
    format!("{up}{CLEAR_BELOW}{WRAP_OFF}{lines}{WRAP_ON}")
}

fn write(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_takes_the_rows_of_the_one_before() {
        assert!(!redraw("a\nb\n", 0).contains('F'));
        assert!(redraw("a\nb\n", 2).starts_with("\x1b[2F\x1b[J"));
    }
}
