//! The proxy between a real TLS client and a scripted backend.

use std::time::Duration;

use edge_proxy::{MIN_ROOM, Outcome, Reason};
use libos::stream::{DialError, Stream};
use libos::tls::{Alert, Misbehaved, NotTls, TlsError};
use rustls::{AlertDescription, ContentType, Error};

mod world;
use world::client::{Client, Dice, Wishes};
use world::{Answer, LIMITS, MAX_ROUNDS, World};

#[track_caller]
fn check(outcome: Outcome, reason: Reason, to_backend: u64, to_client: u64) {
    assert_eq!(
        (outcome.reason, outcome.to_backend, outcome.to_client),
        (reason, to_backend, to_client)
    );
}

// What goes well.

#[test]
fn forwards_both_ways_and_keeps_the_half_close_of_the_client() {
    let (mut world, mut backend) = World::used();
    world.tls.close();
    world.settle();
    assert!(backend.has_received_fin(), "close_notify is passed on as FIN");
    backend.write(b"late answer");
    world.settle();
    assert_eq!(world.tls.plaintext, b"late answer");
    assert!(!world.tls.is_closed && !world.client.has_received_fin());
    backend.finish();
    world.settle();
    assert!(world.tls.is_closed, "FIN is passed on as close_notify");
    assert!(world.client.has_received_fin());
    world.client.finish();
    let outcome = world.wait();
    check(outcome, Reason::Completed, 7, 19);
    assert!(!outcome.is_truncated && !world.client.is_reset() && !backend.is_reset());
    assert_eq!(world.now(), Duration::ZERO, "nothing had to time out");
    assert_eq!(outcome.parameters.unwrap().suite, "TLS13_AES_128_GCM_SHA256");
}

#[test]
fn keeps_the_half_close_of_the_backend() {
    let (mut world, mut backend) = World::used();
    backend.write(b"goodbye");
    backend.finish();
    world.settle();
    assert_eq!(world.tls.plaintext, b"goodbye");
    assert!(world.tls.is_closed && world.client.has_received_fin());
    world.tls.send(b"one more thing");
    world.settle();
    assert_eq!(backend.take(100), b"one more thing");
    world.client_closes();
    assert!(backend.has_received_fin());
    check(world.wait(), Reason::Completed, 21, 15);
    assert_eq!(world.now(), Duration::ZERO);
}

#[test]
fn says_no_goodbye_to_a_client_that_has_gone() {
    let (mut world, mut backend) = World::used();
    world.client_closes();
    assert!(backend.has_received_fin());
    backend.finish();
    let outcome = world.wait();
    check(outcome, Reason::Completed, 7, 8);
    assert!(!world.tls.is_closed, "close_notify after the FIN would be answered with a reset");
    assert_eq!(world.now(), Duration::ZERO);
}

#[test]
fn says_goodbye_to_a_client_that_still_listens_after_its_fin() {
    let (mut world, mut backend) = World::used();
    world.client_closes();
    backend.write(b"long answer");
    world.settle();
    backend.finish();
    check(world.wait(), Reason::Completed, 7, 19);
    assert!(world.tls.is_closed);
}

#[test]
fn takes_a_fin_without_close_notify_as_the_end_and_says_so() {
    let (mut world, mut backend) = World::used();
    world.client.finish();
    world.settle();
    assert!(backend.has_received_fin());
    backend.finish();
    let outcome = world.wait();
    check(outcome, Reason::Completed, 7, 8);
    assert!(outcome.is_truncated);
    let line = format!("{outcome}");
    assert_eq!(
        line,
        "completed; 7 bytes up, 8 down; 0.0 ms, handshake 0.0 ms, connect 0.0 ms; \
         TLS13_AES_128_GCM_SHA256 X25519; FIN without close_notify"
    );
}

#[test]
fn a_record_cut_off_by_fin_is_not_passed_on() {
    let (mut world, mut backend) = World::used();
    world.tls.send(b"cut off");
    world.tls.outgoing.pop();
    world.settle();
    world.client.finish();
    world.settle();
    assert!(backend.has_received_fin() && backend.take(100).is_empty());
    backend.finish();
    assert!(world.wait().is_truncated);
}

#[test]
fn dials_at_the_first_plaintext_and_not_before() {
    let mut world = World::new();
    world.settle();
    assert!(world.tls.is_open() && !world.is_dialled());
    world.client_closes();
    check(world.wait(), Reason::NoRequest, 0, 0);
    assert!(!world.is_dialled());
}

#[test]
fn keeps_what_came_before_the_backend_answered() {
    let mut world = World::new();
    world.dialer.answer.set(Answer::Stall);
    world.tls.send(b"");
    world.settle();
    for part in [&b"first, "[..], b"second, ", b"third"] {
        world.tls.send(part);
    }
    world.tls.close();
    world.settle();
    world.client.finish();
    world.settle();
    let mut backend = world.backend();
    backend.establish();
    world.settle();
    assert_eq!(backend.take(100), b"first, second, third");
    assert!(backend.has_received_fin());
    backend.finish();
    check(world.wait(), Reason::Completed, 20, 0);
}

#[test]
fn follows_a_key_update_in_the_midst_of_traffic() {
    let (mut world, mut backend) = World::used();
    for _ in 0..10 {
        world.tls.update_keys();
        world.tls.send(b"request");
        world.settle();
        assert_eq!(backend.take(100), b"request");
        backend.write(b"response");
        world.settle();
        assert_eq!(std::mem::take(&mut world.tls.plaintext), b"response");
    }
}

// Bulk and back-pressure.

fn pattern(length: usize) -> Vec<u8> {
    let mut dice = Dice(length as u64);
    (0..length).map(|_| dice.roll(256) as u8).collect()
}

/// `length` bytes go up and down at once through streams of that capacity, and arrive unharmed.
#[track_caller]
fn check_bulk(length: usize, to_client: usize, to_backend: usize, chunk: usize) {
    let mut world = World::with_capacities(to_client, to_backend);
    world.settle();
    let (up, down) = (pattern(length), pattern(length + 1));
    let (mut received, mut sent, mut written) = (Vec::new(), 0, 0);
    let mut most = 0;
    for _ in 0..MAX_ROUNDS {
        if world.unsent.len() < 64 << 10 && sent < up.len() {
            let next = (sent + 20_000).min(up.len());
            world.tls.send(&up[sent..next]);
            sent = next;
        }
        world.move_client();
        world.poll();
        if world.is_dialled() {
            let mut backend = world.backend();
            received.extend(backend.take(chunk));
            let end = down.len().min(written + chunk);
            written += backend.write(&down[written..end]);
            most = most.max(backend.link.borrow().pipes[1].bytes.len());
        }
        if received.len() == up.len() && world.tls.plaintext.len() == down.len() {
            break;
        }
    }
    assert!(received == up && world.tls.plaintext == down);
    assert!(most <= to_backend);
    let mut backend = world.backend();
    backend.finish();
    world.settle();
    world.client_closes();
    check(world.wait(), Reason::Completed, up.len() as u64, down.len() as u64);
}

#[test]
fn moves_megabytes_both_ways() {
    check_bulk(16 << 20, 64 << 10, 64 << 10, 1 << 20);
}

#[test]
fn moves_bytes_through_tiny_and_odd_room() {
    check_bulk(20_000, MIN_ROOM, 1, 7);
    check_bulk(20_000, MIN_ROOM + 1, 3, 1000);
    check_bulk(100_000, 1461, 999, 333);
    check_bulk(300_000, 16_384, 16_384, 4321);
    check_bulk(300_000, 16_385 + 22, 16_383, 100_000);
    check_bulk(300_000, 100_003, 70_001, 9_999);
}

#[test]
fn a_backend_that_takes_nothing_stops_the_client() {
    let (mut world, mut backend) = World::used();
    let body = pattern(1 << 20);
    for piece in body.chunks(16_000) {
        world.tls.send(piece);
    }
    world.settle();
    assert!(world.unsent.len() > 800_000, "TCP's window is closed: {}", world.unsent.len());
    let mut received = Vec::new();
    while received.len() < body.len() {
        let piece = backend.take(5000);
        assert!(!piece.is_empty());
        received.extend(piece);
        world.settle();
    }
    assert!(received == body);
}

#[test]
fn a_client_that_reads_nothing_stops_the_backend() {
    let (mut world, mut backend) = World::used();
    world.client_chunk = 0;
    let body = pattern(1 << 20);
    let mut written = 0;
    loop {
        let count = backend.write(&body[written..]);
        written += count;
        // The client's end must not take anything, so only the proxy runs.
        while world.poll() {}
        if count == 0 {
            break;
        }
    }
    assert!(written < 140_000, "{written} bytes were taken");
    world.client_chunk = 3000;
    for _ in 0..MAX_ROUNDS {
        written += backend.write(&body[written..]);
        world.settle();
        if written == body.len() && world.tls.plaintext.len() == body.len() {
            break;
        }
    }
    assert!(world.tls.plaintext == body);
}

// What goes wrong.

#[test]
fn refused_clients_get_the_alert_and_the_log_the_reason() {
    let refused = |bytes: &[u8]| {
        let mut world = World::new();
        world.tls.outgoing.clear();
        world.client.write(bytes);
        world.poll();
        let answer = world.client.take(100);
        assert!(world.client.has_received_fin());
        world.client.finish();
        (world.wait(), answer)
    };
    let (outcome, answer) = refused(b"GET / HTTP/1.1\r\nHost: sealed.test\r\n\r\n");
    check(outcome, Reason::Tls(TlsError::NotTls(NotTls::Http)), 0, 0);
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50]);
    let line = format!("{outcome}");
    let expected = "not TLS: HTTP request on the TLS port; 0 bytes up, 0 down; 0.0 ms; \
                    began with \"GET /\"";
    assert_eq!(line, expected);

    let (outcome, answer) = refused(&[22, 3, 3, 0x7f, 0xff]);
    check(outcome, Reason::Tls(TlsError::Misbehaved(Misbehaved::RecordTooLong)), 0, 0);
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 22]);
}

#[test]
fn a_damaged_record_ends_the_connection_with_an_alert() {
    let (mut world, backend) = World::used();
    world.tls.send(b"to be damaged");
    *world.tls.outgoing.last_mut().unwrap() ^= 1;
    world.settle();
    let expected = Error::AlertReceived(AlertDescription::BadRecordMac);
    assert_eq!(world.tls.error, Some(expected));
    assert!(world.client.has_received_fin());
    assert!(backend.is_reset(), "a request that was cut off must not look complete");
    world.client.finish();
    check(world.wait(), Reason::Tls(TlsError::Misbehaved(Misbehaved::DecryptError)), 7, 8);
}

#[test]
fn an_alert_from_the_client_is_named() {
    let (mut world, _) = World::used();
    let tls = std::mem::replace(&mut world.tls, Client::new(&Wishes::default()));
    world.tls.outgoing.clear();
    let record = tls.into_forger().record(ContentType::Alert, &[2, 48]);
    world.client.write(&record);
    world.client.finish();
    let outcome = world.wait();
    check(outcome, Reason::Tls(TlsError::Alert(Alert(48))), 7, 8);
    assert!(format!("{outcome}").starts_with("alert received: unknown_ca; "));
}

#[test]
fn what_follows_close_notify_is_thrown_away() {
    let (mut world, mut backend) = World::used();
    world.tls.close();
    world.settle();
    world.client.write(&[0xff; 50_000]);
    world.settle();
    assert!(world.outcome.is_none() && backend.take(100).is_empty());
    backend.write(b"answer");
    world.settle();
    assert_eq!(world.tls.plaintext, b"answer");
    world.client.finish();
    backend.finish();
    check(world.wait(), Reason::Completed, 7, 14);
}

#[test]
fn clients_that_leave_in_the_handshake_are_let_go() {
    let mut world = World::new();
    world.client.finish();
    let outcome = world.wait();
    check(outcome, Reason::LeftInHandshake, 0, 0);
    assert_eq!(world.now(), Duration::ZERO);

    let mut world = World::new();
    world.client.abort();
    check(world.wait(), Reason::ClientReset, 0, 0);
}

#[test]
fn clients_that_vanish_take_their_backend_connection_along() {
    let (mut world, backend) = World::used();
    world.client.abort();
    check(world.wait(), Reason::ClientReset, 7, 8);
    assert!(backend.is_reset());

    // Also while nothing is read from the client, because the backend takes nothing.
    let (mut world, backend) = World::used();
    world.tls.send(&pattern(300_000));
    world.settle();
    world.client.abort();
    assert_eq!(world.wait().reason, Reason::ClientReset);
    assert!(backend.is_reset());
    assert_eq!(world.now(), Duration::ZERO);
}

/// A request to a backend that answers like this ends for `reason` after `seconds`, and the client
/// is told with `close_notify`.
#[track_caller]
fn check_backend(answer: Answer, reason: Reason, seconds: u64) {
    let mut world = World::new();
    world.dialer.answer.set(answer);
    world.tls.send(b"");
    world.settle();
    world.tls.send(b"request");
    world.settle();
    while world.outcome.is_none() && !world.client.has_received_fin() {
        world.pass_time();
        world.settle();
    }
    assert_eq!(world.now(), Duration::from_secs(seconds));
    assert!(world.tls.is_closed && world.tls.error.is_none());
    world.client_closes();
    check(world.wait(), reason, 0, 0);
}

#[test]
fn backends_that_do_not_answer_end_only_this_connection() {
    let no_place = Answer::Fail(DialError::NoPlace);
    check_backend(Answer::Refuse, Reason::BackendRefused, 0);
    check_backend(Answer::Stall, Reason::BackendDeadline, 3);
    check_backend(no_place, Reason::NotDialled(DialError::NoPlace), 3);
    check_backend(Answer::Fail(DialError::NoPort), Reason::NotDialled(DialError::NoPort), 3);
    check_backend(Answer::Fail(DialError::NoRoute), Reason::NotDialled(DialError::NoRoute), 0);
}

#[test]
fn waits_for_a_place_at_the_backend() {
    let mut world = World::new();
    world.dialer.answer.set(Answer::Fail(DialError::NoPlace));
    world.settle();
    world.tls.send(b"patient");
    world.settle();
    for _ in 0..3 {
        world.pass_time();
        world.settle();
    }
    assert_eq!(world.now(), Duration::from_millis(150));
    world.dialer.answer.set(Answer::Accept);
    world.pass_time();
    world.settle();
    assert_eq!(world.backend().take(100), b"patient");
}

#[test]
fn a_backend_that_resets_ends_the_connection_with_close_notify() {
    let (mut world, mut backend) = World::used();
    backend.abort();
    world.settle();
    assert!(world.tls.is_closed && world.client.has_received_fin());
    world.client_closes();
    check(world.wait(), Reason::BackendReset, 7, 8);
}

#[test]
fn a_backend_that_has_answered_may_drop_the_rest_of_the_request() {
    let (mut world, mut backend) = World::used();
    backend.write(b"too large");
    backend.finish();
    world.settle();
    backend.abort();
    world.tls.send(b"the rest of the body");
    world.settle();
    assert_eq!(world.tls.plaintext, b"too large");
    world.client.finish();
    check(world.wait(), Reason::Completed, 7, 17);
}

// Deadlines.

#[track_caller]
fn check_deadline(world: &mut World, reason: Reason, after: Duration) {
    let start = world.now();
    while !world.client.has_received_fin() && !world.client.is_reset() {
        world.pass_time();
        world.settle();
    }
    assert_eq!(world.now() - start, after);
    assert_eq!(world.wait().reason, reason);
    assert!(world.now() - start <= after + LIMITS.closing);
}

#[test]
fn a_handshake_that_takes_too_long_is_reset() {
    let mut world = World::new();
    let rest = world.tls.outgoing.split_off(100);
    world.settle();
    check_deadline(&mut world, Reason::HandshakeDeadline, LIMITS.handshake);
    assert!(world.client.is_reset() && !rest.is_empty());
}

#[test]
fn silence_ends_a_connection() {
    let (mut world, backend) = World::used();
    check_deadline(&mut world, Reason::IdleDeadline, LIMITS.idle);
    assert!(world.tls.is_closed && backend.is_reset());

    let mut world = World::new();
    world.settle();
    check_deadline(&mut world, Reason::IdleDeadline, LIMITS.idle);
}

#[test]
fn a_client_that_never_reads_is_reset_in_the_end() {
    let (mut world, mut backend) = World::used();
    world.client_chunk = 0;
    while backend.write(&[0; 1000]) > 0 {
        while world.poll() {}
    }
    for _ in 0..2 {
        world.pass_time();
        while world.poll() {}
    }
    assert_eq!(world.outcome.unwrap().reason, Reason::IdleDeadline);
    assert!(world.client.is_reset());
    assert_eq!(world.now(), LIMITS.idle + LIMITS.closing);
}

#[test]
fn traffic_does_not_make_a_connection_immortal() {
    let (mut world, mut backend) = World::used();
    for _ in 0..1000 {
        world.clock.now.set(world.clock.now.get() + Duration::from_secs(50));
        backend.write(b"tick");
        world.settle();
        if world.client.has_received_fin() {
            world.client_closes();
            assert_eq!(world.wait().reason, Reason::LifetimeDeadline);
            assert_eq!(world.now().as_secs(), 3600);
            return;
        }
    }
    panic!("it is immortal");
}

#[test]
fn traffic_puts_the_idle_deadline_off() {
    let (mut world, mut backend) = World::used();
    for _ in 0..10 {
        world.clock.now.set(world.clock.now.get() + Duration::from_secs(59));
        backend.write(b"tick");
        world.settle();
        world.clock.now.set(world.clock.now.get() + Duration::from_secs(59));
        world.tls.send(b"tock");
        world.settle();
        assert!(!world.client.has_received_fin() && !world.client.is_reset());
    }
    check_deadline(&mut world, Reason::IdleDeadline, LIMITS.idle);
}

// Anything.

#[test]
fn survives_any_order_of_events() {
    let mut dice = Dice(7);
    let mut seen = Vec::new();
    for _ in 0..300 {
        let mut world = World::with_capacities(MIN_ROOM + dice.roll(30_000), 1 + dice.roll(5000));
        world.dialer.answer.set(match dice.roll(10) {
            0 => Answer::Refuse,
            1 => Answer::Stall,
            2 => Answer::Fail(DialError::NoPlace),
            _ => Answer::Accept,
        });
        let is_hostile = dice.roll(2) == 0;
        for _ in 0..60 {
            act(&mut world, &mut dice, is_hostile);
        }
        let outcome = world.wait();
        if !seen.contains(&std::mem::discriminant(&outcome.reason)) {
            seen.push(std::mem::discriminant(&outcome.reason));
        }
    }
    assert!(seen.len() >= 8, "only {} kinds of end", seen.len());
}

/// One random event. A hostile client damages records; then the backend does not finish first,
/// because of an assertion that the TLS library has in debug builds only: it wants no alert to
/// follow `close_notify`.
fn act(world: &mut World, dice: &mut Dice, is_hostile: bool) {
    let backend = world.is_dialled().then(|| world.backend());
    match (dice.roll(40), backend) {
        (0..15, _) => {
            world.move_client();
            world.poll();
        }
        (15..22, _) if world.tls.is_open() => world.tls.send(&vec![1; dice.roll(9000)]),
        (22, _) if world.tls.is_open() => world.tls.update_keys(),
        (23, _) if is_hostile => {
            if let Some(byte) = world.tls.outgoing.last_mut() {
                *byte ^= 1 << dice.roll(8);
            }
        }
        (24, _) if world.tls.is_open() => world.tls.close(),
        (25, _) if dice.roll(4) == 0 => world.client.finish(),
        (26, _) if dice.roll(4) == 0 => world.client.abort(),
        (27..32, Some(mut backend)) => {
            backend.take(dice.roll(9000).max(1));
        }
        (32..37, Some(mut backend)) => {
            backend.write(&vec![2; dice.roll(9000)]);
        }
        (37, Some(mut backend)) if !is_hostile => backend.finish(),
        (38, Some(mut backend)) if dice.roll(4) == 0 => backend.abort(),
        (39, Some(backend)) => backend.establish(),
        _ => {}
    }
}
