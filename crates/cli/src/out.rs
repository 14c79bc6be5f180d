//! What goes to the terminal: lines that survive a closed pipe, progress bars that turn into plain lines.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Writes a line to stdout. A reader that has gone away ends the program quietly, as other filters do.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::out::line(format_args!($($arg)*))
    };
}

/// See [`say!`].
pub fn line(args: std::fmt::Arguments<'_>) {
    raw(&format!("{args}\n"));
}

/// Writes text to stdout without a line end and shows it at once.
pub fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // EPIPE: `tamp run … | head` has seen enough.
        std::process::exit(0);
    }
}

/// Writes a line to stderr; nobody is told when that fails.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// How stderr may be used.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// stderr is a terminal
    pub tty: bool,
    /// escape codes for colour are welcome
    pub color: bool,
}

impl Ui {
    /// Looks at stderr.
    pub fn new(plain: bool) -> Self {
        let tty = std::io::stderr().is_terminal();
        Self { tty, color: tty && !plain }
    }

    /// Dims a remark where colour is welcome.
    pub fn dim(&self, text: &str) -> String {
        if self.color { format!("\x1b[2m{text}\x1b[0m") } else { text.into() }
    }

    /// A bar over bytes; `total` 0 means unknown.
    pub fn bytes(&self, what: &str, total: u64) -> Bar {
        self.bar(what, total, true)
    }

    /// A bar over steps.
    pub fn steps(&self, what: &str, total: u64) -> Bar {
        self.bar(what, total, false)
    }

    fn bar(&self, what: &str, total: u64, bytes: bool) -> Bar {
        let bar = self.tty.then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = match (bytes, total) {
                (_, 0) => "{msg} {spinner} {bytes} {bytes_per_sec}",
                (true, _) => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
                (false, _) => "{msg} [{bar:30}] {pos}/{len} {per_sec} eta {eta}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(what.to_string());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let now = Instant::now();
        let plain = Bar { bar, what: what.into(), total, bytes, start: now, spoke: now };
        if plain.bar.is_none() {
            note(format_args!("{what} …"));
        }
        plain
    }
}

/// A bar, or lines at the start, every ten seconds and at the end when stderr is not a terminal.
pub struct Bar {
    bar: Option<ProgressBar>,
    what: String,
    total: u64,
    bytes: bool,
    start: Instant,
    spoke: Instant,
}

impl Bar {
    /// Sets the position.
    pub fn at(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.spoke.elapsed() > Duration::from_secs(10) => {
                self.spoke = Instant::now();
                note(format_args!("{} … {} of {}", self.what, self.amount(done), self.amount(self.total)));
            }
            None => {}
        }
    }

    /// Learns the total late.
    pub fn set_total(&mut self, total: u64) {
        self.total = total;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// Clears the bar and says how it went.
    pub fn done(self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let s = self.start.elapsed().as_secs_f64();
        note(format_args!("{}: {} in {s:.1} s", self.what, self.amount(done)));
    }

    fn amount(&self, n: u64) -> String {
        match (self.bytes, n) {
            (true, 0) => "unknown size".into(),
            (true, n) => human_bytes(n),
            (false, n) => n.to_string(),
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Decimal units, one digit: `98.4 MB`.
pub fn human_bytes(n: u64) -> String {
    let mut v = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if v < 1000.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{v:.1} {unit}") };
        }
        v /= 1000.0;
    }
    format!("{v:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_in_decimal_units() {
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(98_362_432), "98.4 MB");
        assert_eq!(human_bytes(1_117_320_768), "1.1 GB");
    }
}
