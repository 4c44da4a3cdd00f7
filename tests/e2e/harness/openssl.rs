use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use vestibule::pki::Role;

use super::{LONG, World};

/// `openssl s_client` or `s_server`, which take commands in the first letter of a line: `K` updates
/// the keys of both directions, `k` its own, `R` renegotiates, `Q` ends.
pub(crate) struct OpenSsl {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl OpenSsl {
    /// The device of a world as a client of that gateway.
    pub(crate) fn device(world: &World, gateway: SocketAddr) -> Command {
        let own = world.credentials("laptop-7.test");
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &gateway.to_string()]);
        command.args(["-servername", World::ECHO, "-verify_return_error"]);
        command.arg("-CAfile").arg(world.ca(Role::Gateway));
        command.arg("-cert").arg(own.certificate).arg("-key").arg(own.key);
        command
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        let input = process.stdin.take().expect("piped");
        let (sender, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(process.stdout.take().expect("piped")),
            Box::new(process.stderr.take().expect("piped")),
        ];
        for stream in streams {
            let sender = sender.clone();
            thread::spawn(move || {
                // Ends with the process, or with the test.
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { process, input, lines }
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.input.write_all(line.as_bytes()).expect("openssl runs");
        self.input.flush().expect("openssl runs");
    }

    /// Waits for a line with that text in it.
    pub(crate) fn hear(&self, text: &str) {
        let mut heard = Vec::new();
        while !heard.iter().any(|line: &String| line.contains(text)) {
            let line = self.lines.recv_timeout(LONG);
            heard.push(line.unwrap_or_else(|_| panic!("no `{text}`, but {heard:#?}")));
        }
    }

    /// Has it end, and asserts that it found nothing wrong.
    pub(crate) fn quit(mut self) {
        self.say("Q\n");
        assert!(self.process.wait().expect("it ends").success());
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
