//! The load generator as `compare` sees it: a child that talks in lines.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{Plan, READY, Report, WORKED};
use crate::error::BenchError;

/// A load generator that has prepared its plan.
pub(crate) struct LoadProcess {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl LoadProcess {
    /// Returns when it is ready. It bounds its own time.
    pub(crate) fn prepare(plan: &Plan) -> Result<Self, BenchError> {
        let plan = serde_json::to_string(plan)
            .map_err(|source| BenchError::Conversation { what: "plan", source })?;
        let own = std::env::current_exe().map_err(BenchError::io("finding the bench itself"))?;
        let mut child = Command::new(own)
            .arg("load")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::io("starting the load generator"))?;
        let input = child.stdin.take().expect("standard input is piped");
        let output = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut load = Self { child, input, output };
        load.say(&plan)?;
        load.expect(READY)?;
        Ok(load)
    }

    /// Lets it work, and returns when it has worked. Its sessions may still be open.
    pub(crate) fn work(&mut self) -> Result<(), BenchError> {
        self.say("go")?;
        self.expect(WORKED)
    }

    /// Lets it end what is open, and returns what it has seen.
    pub(crate) fn finish(mut self) -> Result<Report, BenchError> {
        self.say("go")?;
        let report = self.listen()?;
        serde_json::from_str(&report)
            .map_err(|source| BenchError::Conversation { what: "report", source })
    }

    /// The id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn expect(&mut self, expected: &str) -> Result<(), BenchError> {
        let answer = self.listen()?;
        if answer == expected {
            return Ok(());
        }
        Err(self.ended(&format!("did not say `{expected}`"), &answer))
    }

    fn say(&mut self, line: &str) -> Result<(), BenchError> {
        writeln!(self.input, "{line}")
            .and_then(|()| self.input.flush())
            .map_err(BenchError::io("talking to the load generator"))
    }

    fn listen(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        let count = self
            .output
            .read_line(&mut line)
            .map_err(BenchError::io("listening to the load generator"))?;
        match count {
            0 => Err(self.ended("ended early", "(its message is on standard error)")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn ended(&self, what: &str, said: &str) -> BenchError {
        BenchError::Process {
            process: format!("load generator {}", self.child.id()),
            what: what.to_owned(),
            log: said.to_owned(),
        }
    }
}

impl Drop for LoadProcess {
    fn drop(&mut self) {
        // Fails only where it has ended by itself, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
