//! One connection, from its first TLS byte to its end.
//!
//! A connection is a state machine that never waits: [`Connection::step`] does what can be done
//! now and says what to wait for. It holds no bytes of its own. Upwards, at most one record is
//! opened before the backend has taken the last one; downwards, the backend is only read as far as
//! the client has room for the sealed bytes. So a slow side slows the other one down, and nothing
//! grows.

mod backend;
mod ending;
mod visit;

use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;

use libos::clock::Instant;
use libos::stream::{Dial, DialError, Read, Stream, Timer};
use libos::tls::{RECORD_BYTES, SEAL_OVERHEAD, Session};

use crate::attest::{Request, Visitor};
use crate::outcome::Attested;
use crate::{Opening, Outcome, Reason, Route, Workspace};
use backend::{Backend, sink};
use visit::Visit;

/// The least room a client's stream must be able to offer; with less nothing can be sealed.
pub const MIN_ROOM: usize = SEAL_OVERHEAD + 1;

/// With less room than this we wait for the client's acknowledgements, if any are to come: many
/// small records cost more than they hurry.
const GOOD_ROOM: usize = 8 << 10;

/// How many bytes one step moves in each direction before it lets other connections go on.
const STEP_BYTES: usize = 64 << 10;

/// How often we look for a place when there was none for a backend connection.
const RETRY: Duration = Duration::from_millis(50);

/// What a step has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The connection is over.
    Done(Outcome),
    /// There is nothing to do until a stream changes, or until then.
    Idle(Instant),
    /// There is more to do, but others have a right to be next.
    More,
}

/// Serves one connection until it is over.
///
/// Everything that goes wrong ends this connection only, and is told in the outcome.
///
/// This is no `async fn`, because that would keep the arguments beside the connection made of them.
pub fn serve<S: Session, C: Stream, D: Dial, T: Timer>(
    session: S,
    client: C,
    dial: D,
    route: Route,
    visitor: Visitor,
    timer: &T,
    workspace: &RefCell<Workspace>,
) -> impl Future<Output = Outcome> {
    let mut connection = Connection::new(session, client, dial, route, visitor, timer.now());
    poll_fn(move |context| {
        match connection.step(timer.now(), &mut workspace.borrow_mut()) {
            Progress::Done(outcome) => return Poll::Ready(outcome),
            Progress::Idle(deadline) => {
                connection.wake_on_change(context.waker());
                timer.wake_at(deadline, context.waker());
            }
            Progress::More => context.waker().wake_by_ref(),
        }
        Poll::Pending
    })
}

/// One connection.
pub struct Connection<S, C, D: Dial> {
    session: S,
    client: C,
    dial: D,
    backend: Backend<D::Stream>,
    route: Route,
    visitor: Visitor,
    visit: Visit,
    attested: Option<Attested>,
    /// The way from the client to the backend.
    up: Up,
    /// The way from the backend to the client.
    down: Down,
    /// When the end must come, once it has begun, and why it has.
    ending: Option<(Reason, Instant)>,
    started: Instant,
    active: Instant,
    /// The client's first bytes, once there are some.
    opening: Opening,
    handshake: Option<Duration>,
    connect: Option<Duration>,
}

#[derive(Default)]
struct Up {
    bytes: u64,
    /// The client's FIN was read.
    has_fin: bool,
    /// It came without a `close_notify` before it.
    is_truncated: bool,
    /// Our FIN went to the backend.
    is_finished: bool,
}

#[derive(Default)]
struct Down {
    bytes: u64,
    /// The backend's FIN was read, or we want no more from it.
    has_fin: bool,
    /// Something was sent to the client after its FIN: it still listens, or it will reset.
    has_followed_fin: bool,
    /// Our FIN went to the client.
    is_finished: bool,
}

impl<S: Session, C: Stream, D: Dial> Connection<S, C, D> {
    /// A connection that has just been accepted.
    pub fn new(
        session: S,
        client: C,
        dial: D,
        route: Route,
        visitor: Visitor,
        now: Instant,
    ) -> Self {
        Self {
            session,
            client,
            dial,
            backend: Backend::Unneeded,
            route,
            visitor,
            visit: Visit::Over,
            attested: None,
            up: Up::default(),
            down: Down::default(),
            ending: None,
            started: now,
            active: now,
            opening: Opening::default(),
            handshake: None,
            connect: None,
        }
    }

    /// Does what can be done now.
    pub fn step(&mut self, now: Instant, workspace: &mut Workspace) -> Progress {
        let mut is_unfinished = false;
        if self.ending.is_none() {
            match self.run(now, workspace) {
                Ok(more) => is_unfinished = more,
                Err(reason) => self.begin_ending(reason, now),
            }
        }
        if let Some((reason, until)) = self.ending {
            is_unfinished = self.wind_up(workspace);
            if self.is_over() || now >= until {
                self.abort();
                return Progress::Done(self.outcome(reason, now));
            }
        }
        if is_unfinished {
            return Progress::More;
        }
        self.session.rest();
        Progress::Idle(self.deadline(now))
    }

    /// Wakes `waker` when a step may have something to do.
    pub fn wake_on_change(&mut self, waker: &Waker) {
        self.client.wake_on_change(waker);
        if let Some(stream) = self.backend.stream() {
            stream.wake_on_change(waker);
        }
        if let Visit::Waiting(ticket) = &self.visit {
            ticket.wake_on_change(waker);
        }
    }

    /// Moves bytes both ways; says whether there are more, or why the end has come.
    fn run(&mut self, now: Instant, workspace: &mut Workspace) -> Result<bool, Reason> {
        self.expire(now)?;
        self.await_backend(now)?;
        let mut more_up = self.move_up(now, workspace)?;
        if matches!(self.backend, Backend::Unneeded) && self.session.has_plaintext() {
            self.dial(now)?;
            self.await_backend(now)?;
            more_up |= matches!(self.backend, Backend::Open(_));
        }
        self.attend(now)?;
        more_up |= self.send_answer(now, workspace)?;
        let more_down = self.move_down(now, workspace)?;
        self.pass_on_closes()?;
        Ok(more_up || more_down)
    }

    fn expire(&self, now: Instant) -> Result<(), Reason> {
        let limits = &self.route.limits;
        if self.handshake.is_none() && now >= self.started + limits.handshake {
            return Err(Reason::HandshakeDeadline);
        }
        if now >= self.started + limits.lifetime {
            return Err(Reason::LifetimeDeadline);
        }
        match self.visit {
            Visit::Asking { .. } if now >= self.started + limits.handshake => {
                return Err(Reason::RequestDeadline);
            }
            Visit::Answering { since, .. } if now >= since + limits.handshake => {
                return Err(Reason::AnswerDeadline);
            }
            _ => {}
        }
        match self.backend {
            Backend::Connecting { since, .. } if now >= since + limits.connect => {
                Err(Reason::BackendDeadline)
            }
            Backend::NoPlace { since, error } if now >= since + limits.connect => {
                Err(Reason::NotDialled(error))
            }
            _ if now >= self.active + limits.idle && !self.visit.is_ours() => {
                Err(Reason::IdleDeadline)
            }
            _ => Ok(()),
        }
    }

    /// When the next of [`Connection::expire`]'s or the end's moments comes.
    fn deadline(&self, now: Instant) -> Instant {
        if let Some((_, until)) = self.ending {
            return until;
        }
        let limits = &self.route.limits;
        let mut deadline = self.started + limits.lifetime;
        if !self.visit.is_ours() {
            deadline = deadline.min(self.active + limits.idle);
        }
        if self.handshake.is_none() {
            deadline = deadline.min(self.started + limits.handshake);
        }
        deadline = match &self.visit {
            Visit::Asking { .. } => deadline.min(self.started + limits.handshake),
            Visit::Waiting(ticket) => deadline.min(ticket.next_poll(now)),
            Visit::Answering { since, .. } => deadline.min(*since + limits.handshake),
            Visit::Broken(_) | Visit::Over => deadline,
        };
        match self.backend {
            Backend::Connecting { since, .. } => deadline.min(since + limits.connect),
            Backend::NoPlace { since, .. } => deadline.min(since + limits.connect).min(now + RETRY),
            Backend::Unneeded | Backend::Open(_) => deadline,
        }
    }

    /// Sees whether the backend has answered, and dials again where there was no place.
    fn await_backend(&mut self, now: Instant) -> Result<(), Reason> {
        if let Backend::NoPlace { since, .. } = self.backend {
            self.dial(since)?;
        }
        self.backend = match core::mem::replace(&mut self.backend, Backend::Unneeded) {
            Backend::Connecting { since, stream } if stream.is_established() => {
                self.connect = Some(now.since(since));
                self.active = now;
                Backend::Open(stream)
            }
            Backend::Connecting { stream, .. } if stream.is_over() => {
                return Err(Reason::BackendRefused);
            }
            other => other,
        };
        Ok(())
    }

    fn dial(&mut self, since: Instant) -> Result<(), Reason> {
        self.backend = match self.dial.dial(self.route.backend) {
            Ok(stream) => Backend::Connecting { since, stream },
            Err(error @ (DialError::NoPlace | DialError::NoPort)) => {
                Backend::NoPlace { since, error }
            }
            Err(error @ DialError::NoRoute) => return Err(Reason::NotDialled(error)),
        };
        Ok(())
    }

    /// Moves bytes from the client to the backend; says whether more wait.
    fn move_up(&mut self, now: Instant, workspace: &mut Workspace) -> Result<bool, Reason> {
        let mut budget = STEP_BYTES;
        loop {
            self.flush();
            self.session.deliver(&mut sink(&mut self.visit, &mut self.backend, &mut self.up.bytes));
            let has_ended = self.session.has_peer_closed();
            let is_blocked = self.session.has_plaintext() || !self.backend.has_room();
            if self.up.has_fin || (is_blocked && !has_ended) {
                return Ok(false);
            }
            if budget == 0 {
                return Ok(true);
            }
            let read = if has_ended {
                // RFC 8446 section 6.1: what comes after close_notify is ignored.
                self.client.read(&mut workspace.plaintext)
            } else {
                let space = self.session.space();
                let read = self.client.read(space);
                if let Read::Data(count) = read
                    && self.opening.bytes().is_empty()
                {
                    self.opening = Opening::of(space.get(..count).unwrap_or_default());
                }
                read
            };
            match read {
                Read::Data(count) => {
                    budget = budget.saturating_sub(count);
                    self.active = now;
                    self.receive(count, now)?;
                }
                Read::Empty => return Ok(false),
                Read::Finished => self.see_client_fin()?,
                Read::Broken => return Err(Reason::ClientReset),
            }
        }
    }

    /// Hands `count` bytes to TLS, which lie in its space already, and the plaintext to the backend.
    fn receive(&mut self, count: usize, now: Instant) -> Result<(), Reason> {
        if self.session.has_peer_closed() {
            return Ok(());
        }
        let mut sink = sink(&mut self.visit, &mut self.backend, &mut self.up.bytes);
        let result = self.session.received(count, &mut sink);
        drop(sink);
        result.map_err(Reason::Tls)?;
        if self.handshake.is_none() && self.session.is_open() {
            self.handshake = Some(now.since(self.started));
            if let Some(exporter) = self.session.exporter() {
                self.visit = Visit::Asking { request: Request::default(), exporter };
            }
        }
        Ok(())
    }

    fn see_client_fin(&mut self) -> Result<(), Reason> {
        self.up.has_fin = true;
        if self.handshake.is_none() {
            return Err(Reason::LeftInHandshake);
        }
        self.up.is_truncated = !self.session.has_peer_closed();
        Ok(())
    }

    /// Moves bytes from the backend to the client; says whether more may wait.
    fn move_down(&mut self, now: Instant, workspace: &mut Workspace) -> Result<bool, Reason> {
        let Workspace { plaintext, sealed } = workspace;
        let mut budget = STEP_BYTES;
        loop {
            let Backend::Open(backend) = &mut self.backend else {
                return Ok(false);
            };
            if self.down.has_fin {
                return Ok(false);
            }
            let Some(wanted) = wanted(&self.session, &self.client) else { return Ok(false) };
            if budget == 0 {
                return Ok(true);
            }
            let space = plaintext.get_mut(..wanted).unwrap_or_default();
            let count = match backend.read(space) {
                Read::Data(count) => count,
                Read::Empty => return Ok(false),
                Read::Finished => {
                    self.down.has_fin = true;
                    self.say_goodbye();
                    return Ok(false);
                }
                Read::Broken => return Err(Reason::BackendReset),
            };
            budget = budget.saturating_sub(count);
            self.active = now;
            let data = space.get(..count).unwrap_or_default();
            send_record(&mut self.session, &mut self.client, data, sealed)?;
            self.down.bytes += count as u64;
            self.down.has_followed_fin |= self.up.has_fin;
        }
    }

    /// Passes the end of one side's data on to the other.
    fn pass_on_closes(&mut self) -> Result<(), Reason> {
        self.flush();
        let has_client_ended = self.up.has_fin || self.session.has_peer_closed();
        match &mut self.backend {
            Backend::Open(stream) => {
                if has_client_ended && !self.session.has_plaintext() && !self.up.is_finished {
                    stream.finish();
                    self.up.is_finished = true;
                }
                // Once the backend has sent everything, nobody needs what it does not take.
                let is_gone = self.down.has_fin && !self.up.is_finished && stream.is_over();
                if self.down.is_finished && (self.up.is_finished || is_gone) {
                    return Err(Reason::Completed);
                }
            }
            // Who has asked may still be told.
            Backend::Unneeded if has_client_ended && !self.visit.awaits_answer() => {
                return Err(Reason::NoRequest);
            }
            Backend::Unneeded | Backend::NoPlace { .. } | Backend::Connecting { .. } => {}
        }
        if self.client.is_over() && !self.down.is_finished {
            return Err(Reason::ClientReset);
        }
        Ok(())
    }

    /// Queues `close_notify`, unless the client has gone: a FIN mostly means that nobody listens
    /// any more, and bytes for nobody are answered with a reset.
    fn say_goodbye(&mut self) {
        if !self.up.has_fin || self.down.has_followed_fin {
            self.session.close();
        }
        self.flush();
    }

    /// Sends what TLS has to say, and our FIN after the last of it.
    fn flush(&mut self) {
        let outgoing = self.session.outgoing();
        if !outgoing.is_empty() {
            let count = self.client.write(outgoing);
            self.session.sent(count);
        }
        if self.down.has_fin && !self.down.is_finished && self.session.outgoing().is_empty() {
            self.client.finish();
            self.down.is_finished = true;
        }
    }
}

/// How many bytes the next record to the client should have; nothing while it has to wait.
fn wanted(session: &impl Session, client: &impl Stream) -> Option<usize> {
    let room = client.room();
    let is_worth_waiting = room < GOOD_ROOM && client.unacknowledged() > 0;
    let is_ready = session.outgoing().is_empty() && room >= MIN_ROOM;
    (is_ready && !is_worth_waiting).then(|| (room - SEAL_OVERHEAD).min(RECORD_BYTES))
}

/// Seals one record for a client that has room for it, and sends it; the length of what was sent.
fn send_record(
    session: &mut impl Session,
    client: &mut impl Stream,
    data: &[u8],
    sealed: &mut [u8],
) -> Result<usize, Reason> {
    let end = (data.len() + SEAL_OVERHEAD).min(sealed.len());
    let record = sealed.get_mut(..end).unwrap_or_default();
    let length = session.seal(data, record).map_err(Reason::Tls)?;
    // A stream that takes less than it has room for is not there any more.
    if client.write(record.get(..length).unwrap_or_default()) < length {
        return Err(Reason::ClientReset);
    }
    Ok(length)
}
