//! A replication connection, as far as a follower needs it: it starts, reads what comes, and acknowledges. The driver
//! for SQL knows nothing of it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::Cluster;

/// Version 3.0 of the protocol.
const PROTOCOL: i32 = 3 << 16;

/// Why a connection ended.
#[derive(Debug)]
pub enum Broken {
    /// The server, or its process for us, went.
    Lost(io::Error),
    /// The server says why: SQLSTATE and message.
    Refused(String, String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// A message of the server: what it is, and what it says.
type Message = (u8, Vec<u8>);

/// A walsender's client.
pub struct Replication {
    socket: UnixStream,
    /// What has come and is not a whole message yet.
    input: Vec<u8>,
    acknowledged: u64,
    pid: u32,
}

/// Doubles what ends a quoted text.
fn quoted(text: &str, quote: char) -> String {
    format!("{quote}{}{quote}", text.replace(quote, &format!("{quote}{quote}")))
}

impl Replication {
    /// Starts decoding of a slot with options for its plugin.
    pub fn start(server: &Cluster<'_>, slot: &str, options: &[(&str, &str)]) -> Result<Self, Broken> {
        let socket = UnixStream::connect(server.socket().join(".s.PGSQL.5432"))?;
        let mut connection = Self { socket, input: Vec::new(), acknowledged: 0, pid: 0 };
        let mut startup = PROTOCOL.to_be_bytes().to_vec();
        startup.extend(b"user\0postgres\0database\0postgres\0replication\0database\0\0");
        connection.send(None, &startup)?;
        connection.until(b'Z')?;
        let options: Vec<String> =
            options.iter().map(|(name, value)| format!("{} {}", quoted(name, '"'), quoted(value, '\''))).collect();
        let start = format!("START_REPLICATION SLOT {} LOGICAL 0/0 ({})\0", quoted(slot, '"'), options.join(", "));
        connection.send(Some(b'Q'), start.as_bytes())?;
        connection.until(b'W')?;
        Ok(connection)
    }

    /// The process that serves it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> io::Result<()> {
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend((body.len() as i32 + 4).to_be_bytes());
        message.extend(body);
        self.socket.write_all(&message)
    }

    /// Reads up to a message of a kind.
    fn until(&mut self, wanted: u8) -> Result<(), Broken> {
        self.socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        loop {
            let (kind, body) = self.message()?.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?;
            match kind {
                b'K' => self.pid = u32::from_be_bytes(body[..4].try_into().expect("a pid has four bytes")),
                _ if kind == wanted => return Ok(()),
                _ => {}
            }
        }
    }

    /// The next message; none if none came in time.
    fn message(&mut self) -> Result<Option<Message>, Broken> {
        let mut chunk = [0; 1 << 16];
        loop {
            if self.input.len() >= 5 {
                let length = u32::from_be_bytes(self.input[1..5].try_into().expect("a length has four bytes"));
                let end = length as usize + 1;
                if self.input.len() >= end {
                    let message: Vec<u8> = self.input.drain(..end).collect();
                    return match message[0] {
                        b'E' => Err(refusal(&message[5..])),
                        kind => Ok(Some((kind, message[5..].to_vec()))),
                    };
                }
            }
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(length) => self.input.extend(&chunk[..length]),
                Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next text of the plugin; none if none came in time.
    pub fn read(&mut self, patience: Duration) -> Result<Option<String>, Broken> {
        self.socket.set_read_timeout(Some(patience))?;
        while let Some((kind, body)) = self.message()? {
            match (kind, body.first()) {
                // Start, end, and time come before the data.
                (b'd', Some(b'w')) => {
                    return Ok(Some(String::from_utf8(body[25..].to_vec()).expect("the plugin writes UTF-8")));
                }
                (b'd', Some(b'k')) if body[17] == 1 => self.acknowledge(self.acknowledged)?,
                _ => {}
            }
        }
        Ok(None)
    }

    /// Tells the server what need not be sent again.
    pub fn acknowledge(&mut self, lsn: u64) -> Result<(), Broken> {
        self.acknowledged = lsn;
        let mut status = vec![b'r'];
        // Written, flushed, applied, and a time, which nobody reads.
        for number in [lsn, lsn, lsn, 0] {
            status.extend(number.to_be_bytes());
        }
        status.push(0);
        Ok(self.send(Some(b'd'), &status)?)
    }
}

/// The fields of an error that matter.
fn refusal(body: &[u8]) -> Broken {
    let field = |kind: u8| {
        let mut fields = body.split(|&byte| byte == 0);
        fields
            .find(|field| field.first() == Some(&kind))
            .map_or(String::new(), |field| String::from_utf8_lossy(&field[1..]).into_owned())
    };
    Broken::Refused(field(b'C'), field(b'M'))
}
