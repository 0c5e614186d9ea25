//! A root shell of the emulated TCU over its second serial line, driven by commands.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::shell::{Failure, Outcome};

#[derive(Debug)]
pub struct Shell {
    line: UnixStream,
    received: String,
    count: u32,
}

/// What a command said, both outputs, and its exit status.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    pub code: i32,
}

impl Shell {
    /// Waits until the shell answers.
    pub fn open(socket: &Path, limit: Duration) -> Result<Self, Failure> {
        let line = connect(socket)?;
        line.set_read_timeout(Some(Duration::from_millis(200))).map_err(|e| Failure::new(e.to_string()))?;
        let mut shell = Self { line, received: String::new(), count: 0 };
        let deadline = Instant::now() + limit;
        loop {
            // What is typed before the login is there is lost, so it is typed again. Without echo there is nothing to tell apart.
            shell.send("stty -echo cols 1000; export TERM=dumb PS1= SYSTEMD_PAGER= LC_ALL=C")?;
            if shell.run("true", Duration::from_secs(3)).is_ok() {
                return Ok(shell);
            }
            if Instant::now() > deadline {
                return Err(Failure::new("no shell answers on the second serial line"));
            }
        }
    }

    /// Types a line.
    pub fn send(&mut self, text: &str) -> Outcome {
        self.line
            .write_all(format!("{text}\n").as_bytes())
            .map_err(|e| Failure::new(format!("typing {text:?} on the serial line: {e}")))
    }

    /// Runs one command.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Answer, Failure> {
        self.count += 1;
        let count = self.count;
        // Written so that the typed text, should it be echoed, is not taken for the marks.
        self.send(&format!(
            "printf '\\n@%s-{count}@\\n' from; {{ {command}; }} 2>&1; printf '\\n@%s-{count}:%d@\\n' to $?"
        ))?;
        let (begin, end) = (format!("@from-{count}@"), format!("@to-{count}:"));
        let deadline = Instant::now() + limit;
        loop {
            if let Some(answer) = cut(&self.received, &begin, &end) {
                self.received.clear();
                return Ok(answer);
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{command:?} did not end in {limit:?}")));
            }
            self.read()?;
        }
    }

    /// A command that must succeed; what it said.
    pub fn must(&mut self, command: &str, limit: Duration) -> Result<String, Failure> {
        let answer = self.run(command, limit)?;
        if answer.code == 0 {
            return Ok(answer.text);
        }
        Err(Failure::new(format!("{command}: status {}\n{}", answer.code, answer.text)))
    }

    fn read(&mut self) -> Outcome {
        let mut buffer = [0; 4096];
        match self.line.read(&mut buffer) {
            Ok(0) => Err(Failure::new("the serial line was closed")),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                self.received.push_str(&String::from_utf8_lossy(bytes).replace('\r', ""));
                Ok(())
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                Ok(())
            }
            Err(error) => Err(Failure::new(format!("the serial line: {error}"))),
        }
    }
}

/// QEMU makes its sockets a moment after its start.
pub fn connect(socket: &Path) -> Result<UnixStream, Failure> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(socket) {
            Ok(line) => return Ok(line),
            Err(error) if Instant::now() > deadline => {
                return Err(Failure::new(format!("{}: {error}", socket.display())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// What stands between the marks, and the number behind the second.
fn cut(received: &str, begin: &str, end: &str) -> Option<Answer> {
    let (_, rest) = received.split_once(begin)?;
    let (text, rest) = rest.split_once(end)?;
    let (code, _) = rest.split_once('@')?;
    Some(Answer { text: text.trim_matches('\n').to_owned(), code: code.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_what_stands_between_its_marks() {
        let typed = "printf '\\n@%s-7@\\n' from; { true; } 2>&1; printf '\\n@%s-7:%d@\\n' to $?\n";
        let received = format!("{typed}\n@from-7@\na line\n\n@to-7:3@\n# ");
        let answer = cut(&received, "@from-7@", "@to-7:").unwrap();
        assert_eq!((answer.text.as_str(), answer.code), ("a line", 3));
        assert!(cut(&received, "@from-8@", "@to-8:").is_none());
        assert!(cut("\n@from-7@\nhalf\n@to-7:", "@from-7@", "@to-7:").is_none());
    }
}
