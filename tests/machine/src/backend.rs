//! A plain HTTP server for tests, which also does what a good server never would.
//!
//! | request | what happens |
//! |---|---|
//! | `GET /bytes/N` | N bytes of [`body::bytes`] |
//! | `PUT /hash` | the digest of what was sent |
//! | `GET /short` | the answer promises more than it has, then ends |
//! | `GET /reset` | the connection is reset |
//! | `GET /stall` | nothing, for as long as the server lives |
//! | `DRAIN` | reads to the client's end, and only then answers with the digest of it all |

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::{Error, body, process};

/// Connections at one time; further ones are closed at once.
pub const MAX_CONNECTIONS: usize = 4096;

/// The longest line of a request, and the most lines.
const MAX_LINE_BYTES: u64 = 8192;
const MAX_LINES: usize = 64;

/// The largest body that can be asked for or sent: 1 GiB.
const MAX_BODY_BYTES: u64 = 1 << 30;

/// A silent client is given up after this.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(300);

/// A server on loopback. Dropping it closes its port; connections end with their clients.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_closed: AtomicBool,
    open: AtomicUsize,
    accepted: AtomicUsize,
}

impl Backend {
    /// Starts a server on a free port.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if there is no free port.
    pub fn start() -> Result<Self, Error> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts a server where one was before.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the port is in use.
    pub fn start_at(address: SocketAddr) -> Result<Self, Error> {
        let start = |source| Error::Start { program: "the test backend".to_owned(), source };
        let listener = TcpListener::bind(address).map_err(start)?;
        listener.set_nonblocking(true).map_err(start)?;
        let address = listener.local_addr().map_err(start)?;
        let shared = Arc::new(Shared::default());
        let inner = Arc::clone(&shared);
        let listener = Some(thread::spawn(move || listen(&listener, &inner)));
        Ok(Self { address, shared, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.is_closed.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(process::POLL);
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        if shared.open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // A client that breaks off is what many tests are about.
            let _ = serve(&stream, &shared);
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Answers requests until the client or the test has had enough.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    if begins_with(stream, b"GET /reset")? {
        // Closing a socket with unread bytes resets the connection (RFC 1122 section 4.2.2.13).
        return Ok(());
    }
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        match (request.verb.as_str(), request.path.as_str()) {
            ("DRAIN", _) => {
                let digest = digest_of(&mut reader.take(MAX_BODY_BYTES))?;
                return write!({ stream }, "{digest}");
            }
            ("GET", "/short") => {
                return { stream }
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort");
            }
            ("GET", "/stall") => {
                while !shared.is_closed.load(Ordering::Relaxed) && !is_gone(stream) {
                    thread::sleep(process::POLL);
                }
                return Ok(());
            }
            ("PUT" | "POST", _) => {
                let mut sent = { &mut reader }.take(request.length.min(MAX_BODY_BYTES));
                let digest = digest_of(&mut sent)?;
                answer(stream, digest.as_bytes())?;
            }
            (_, path) => match path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
                Some(count) if count as u64 <= MAX_BODY_BYTES => {
                    answer(stream, &body::bytes(count))?;
                }
                _ => {
                    { stream }.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
                }
            },
        }
    }
    Ok(())
}

fn begins_with(stream: &TcpStream, expected: &[u8]) -> io::Result<bool> {
    let mut start = vec![0; expected.len()];
    let count = stream.peek(&mut start)?;
    Ok(&start[..count] == expected)
}

fn is_gone(stream: &TcpStream) -> bool {
    let _ = stream.set_read_timeout(Some(process::POLL));
    matches!(stream.peek(&mut [0]), Ok(0))
}

fn answer(mut stream: &TcpStream, body: &[u8]) -> io::Result<()> {
    // In one piece, as a good server does: each write is a packet.
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat())
}

fn digest_of(reader: &mut impl Read) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(body::hex(&digest.finalize())),
            count => digest.update(&piece[..count]),
        }
    }
}

struct Request {
    verb: String,
    path: String,
    length: u64,
}

impl Request {
    /// Reads a request's head, or `None` at the connection's end.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let first = line(reader)?;
        let mut words = first.split_whitespace();
        let Some(verb) = words.next() else { return Ok(None) };
        let verb = verb.to_owned();
        let path = words.next().unwrap_or("/").to_owned();
        let mut request = Self { verb, path, length: 0 };
        if request.verb == "DRAIN" {
            return Ok(Some(request));
        }
        for _ in 0..MAX_LINES {
            let header = line(reader)?;
            if header.is_empty() {
                return Ok(Some(request));
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                request.length = value.trim().parse().unwrap_or(0);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.take(MAX_LINE_BYTES).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(address: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(request)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }

    #[track_caller]
    fn check(request: &[u8], expected_end: &[u8]) {
        let backend = Backend::start().unwrap();
        let answer = ask(backend.address(), request).unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.ends_with(expected_end), "{text}");
    }

    #[test]
    fn answers_as_the_table_says() {
        check(b"GET /bytes/1000 HTTP/1.1\r\n\r\n", &body::bytes(1000));
        check(b"GET /bytes/0 HTTP/1.1\r\n\r\n", b"Content-Length: 0\r\n\r\n");
        check(
            b"PUT /hash HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            body::sha256(b"abc").as_bytes(),
        );
        check(b"GET /short HTTP/1.1\r\n\r\n", b"short");
        check(b"GET /other HTTP/1.1\r\n\r\n", b"Content-Length: 0\r\n\r\n");
        check(b"DRAIN\nabc", body::sha256(b"abc").as_bytes());
        check(b"GET /stall HTTP/1.1\r\n\r\n", b"");
        let twice = b"GET /bytes/9 HTTP/1.1\r\n\r\nGET /bytes/7 HTTP/1.1\r\n\r\n";
        check(twice, &body::bytes(7));
    }

    #[test]
    fn a_reset_is_a_reset() {
        let backend = Backend::start().unwrap();
        let error = ask(backend.address(), b"GET /reset HTTP/1.1\r\n\r\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_dropped_server_refuses_and_can_come_back() {
        let backend = Backend::start().unwrap();
        let address = backend.address();
        drop(backend);
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let again = Backend::start_at(address).unwrap();
        ask(address, b"GET /bytes/1 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(again.accepted(), 1);
    }
}
