//! The network against another smoltcp over a bad wire, and against packets made by hand.

mod lab;

use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Poll, Waker};
use std::time::Duration;

use smoltcp::socket::tcp::State;

use self::lab::{
    Dice, FAR_IP, Hand, LISTENER, Lab, OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, PORT, Reply, World, arp,
    config, fix, is_arp_request, packet, pattern,
};
use super::frame::flag;
use super::*;
use crate::executor::Executor;
use crate::stream::{Dial, DialError, Read, Stream};

const MIB: usize = 1 << 20;

fn peer(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(PEER_IP, port)
}

fn far(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(FAR_IP, port)
}

/// Gives back everything it gets, then finishes.
async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 8 << 10];
    poll_fn(|context| {
        stream.wake_on_change(context.waker());
        loop {
            let room = stream.room().min(buffer.len());
            if room == 0 {
                return if stream.is_over() { Poll::Ready(()) } else { Poll::Pending };
            }
            match stream.read(&mut buffer[..room]) {
                Read::Data(count) => assert_eq!(stream.write(&buffer[..count]), count),
                Read::Empty => return Poll::Pending,
                Read::Finished => {
                    stream.finish();
                    return Poll::Ready(());
                }
                Read::Broken => panic!("broken"),
            }
        }
    })
    .await;
}

/// Sends a mebibyte from the peer to an echo task and back.
fn check_echo(completes_checksums: bool, faults: [u64; 3], capacity: usize, is_dialled: bool) {
    let mut world = World::new(Lab::with(config(), LISTENER, completes_checksums));
    world.faults = faults;
    world.lab.capacity.set(capacity);
    let executor = Executor::new(1);
    let handle = if is_dialled {
        let handle = world.peer.listen(8080);
        let stream = world.lab.network.dialer().dial(peer(8080)).unwrap();
        executor.spawn(establish_then_echo(stream)).unwrap();
        handle
    } else {
        world.peer.connect(50_000)
    };
    let data = pattern(MIB);
    let (mut sent, mut back) = (0, Vec::new());
    world.run(600_000, |lab, peer| {
        if let Some(accepted) = lab.network.accept() {
            executor.spawn(echo(accepted.stream)).unwrap();
        }
        executor.run(lab.now);
        let socket = peer.socket(handle);
        if socket.may_send() {
            sent += socket.send_slice(&data[sent..]).unwrap();
            if sent == data.len() {
                socket.close();
            }
        }
        if socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), back.extend_from_slice(bytes))).unwrap();
        }
        back.len() == data.len() && matches!(socket.state(), State::TimeWait | State::Closed)
    });
    assert!(back == *data);
    // The task is gone already; the connection ends without it.
    world.run(60_000, |lab, _| lab.census() == [0; 4]);
    assert!(executor.is_empty());
    let counters = world.lab.network.counters();
    assert_eq!((counters.aborts, counters.timeouts, counters.resets), (0, 0, 0));
}

async fn establish_then_echo(mut stream: TcpStream) {
    poll_fn(|context| {
        stream.wake_on_change(context.waker());
        if stream.is_established() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    echo(stream).await;
}

#[test]
fn a_mebibyte_comes_back_over_a_good_wire() {
    check_echo(false, [0; 3], 256, false);
    check_echo(true, [0; 3], 256, false);
    check_echo(true, [0; 3], 256, true);
}

#[test]
fn a_mebibyte_comes_back_over_a_wire_that_loses_repeats_and_disorders() {
    check_echo(false, [2, 2, 5], 256, false);
    check_echo(true, [3, 1, 10], 256, true);
}

#[test]
fn a_mebibyte_comes_back_through_a_transmit_ring_of_one_frame() {
    check_echo(false, [0; 3], 1, false);
    check_echo(false, [1, 1, 1], 2, true);
}

#[test]
fn a_frame_touches_only_its_own_connection() {
    const IDLE: u16 = 1000;
    let mut lab = Lab::with(config(), Listener { max_half_open: 1, ..LISTENER }, false);
    let mut streams = Vec::new();
    let mut hands = Vec::new();
    for port in 0..IDLE {
        hands.push(lab.connect(far(2000 + port)));
        streams.push(lab.accept());
    }
    lab.pass(Duration::from_millis(100));
    let before = lab.network.counters();
    assert_eq!((before.connections, before.half_open), (1000, 0));

    let active = usize::from(IDLE / 2);
    let frames = lab.answer(hands[active].segment(flag::ACK, b"hello"));
    assert_eq!(frames.len(), 0, "the acknowledgement waits for data to travel with");
    let mut buffer = [0; 16];
    assert_eq!(streams[active].read(&mut buffer), Read::Data(5));
    assert_eq!(streams[active].write(b"world"), 5);
    lab.round();
    let replies: Vec<_> = lab.take_sent().iter().map(|frame| Reply::of(frame)).collect();
    assert_eq!(replies.len(), 1);
    assert_eq!((replies[0].payload, replies[0].ack), (5, hands[active].seq + 5));
    let polls = lab.network.counters().polls - before.polls;
    assert!(polls <= 2, "{polls} looks at connections for one frame in and one out");
    let silent = streams.iter_mut().map(|stream| stream.read(&mut [0; 4]));
    assert!(silent.into_iter().all(|read| read == Read::Empty));
}

#[test]
fn eight_syns_do_not_keep_the_ninth_away() {
    let mut lab = Lab::new();
    for port in 0..8 {
        let hand = Hand { from: far(3000 + port), seq: 1, ack: 0, port: PORT };
        assert_eq!(lab.answer(hand.segment(flag::SYN, &[])).len(), 1);
    }
    lab.connect(far(4000));
    drop(lab.accept());
    lab.pass(Duration::from_secs(6));
    assert_eq!(lab.census(), [0; 4]);
    assert_eq!(lab.network.counters().vanished_half_open, 8);
}

#[test]
fn a_flood_of_syns_takes_bounded_memory_and_passes() {
    let mut lab = Lab::new();
    let held = lab.connect(far(1));
    let mut stream = lab.accept();
    let mut answers = 0;
    for port in 0..10_000 {
        let hand = Hand { from: far(2 + port), seq: 77, ack: 0, port: PORT };
        answers += lab.answer(hand.segment(flag::SYN, &[])).len();
    }
    let counters = lab.network.counters();
    assert_eq!(answers, LISTENER.max_half_open);
    assert_eq!(counters.half_open, LISTENER.max_half_open as u64);
    assert_eq!(counters.refused_half_open, 10_000 - LISTENER.max_half_open as u64);
    assert_eq!(lab.census(), [65, 65, 65, 0]);

    lab.answer(held.segment(flag::ACK, b"still here"));
    assert_eq!(stream.read(&mut [0; 16]), Read::Data(10), "others go on during the flood");

    lab.pass(LISTENER.tuning.handshake_timeout);
    assert_eq!(lab.network.counters().half_open, 0);
    lab.connect(far(20_000));
    assert_eq!(lab.accept().peer(), far(20_000));
}

#[test]
fn refusals_say_why() {
    let mut limited = config();
    limited.limits.accepted = 1;
    let mut lab = Lab::with(limited, LISTENER, false);
    lab.connect(far(1));
    let second = Hand { from: far(2), seq: 1, ack: 0, port: PORT }.segment(flag::SYN, &[]);
    assert_eq!(lab.answer(second.clone()).len(), 0);
    assert_eq!(lab.network.counters().refused_connections, 1);
    drop(lab.accept());
    lab.round();
    lab.take_sent();
    assert_eq!(lab.answer(second.clone()).len(), 1, "the place is free again");

    let mut lab = Lab::with(Config { has_memory: || false, ..config() }, LISTENER, false);
    assert_eq!(lab.answer(second).len(), 0);
    assert_eq!(lab.network.counters().refused_memory, 1);
    assert_eq!(lab.census(), [0; 4]);
    assert!(matches!(lab.network.dialer().dial(peer(80)), Err(DialError::NoPlace)));
}

#[test]
fn a_reset_breaks_one_connection_only() {
    let mut lab = Lab::new();
    let hand = lab.connect(far(1));
    let mut broken = lab.accept();
    let other_hand = lab.connect(far(2));
    let mut other = lab.accept();
    assert!(broken.write(&[7; 5000]) == 5000);
    lab.answer(hand.segment(flag::ACK, b"last words"));

    let outside = Hand { seq: hand.seq.wrapping_sub(70_000), ..hand };
    lab.answer(outside.segment(flag::RST, &[]));
    assert!(!broken.is_over(), "a reset out of the window is ignored");
    let inside = Hand { seq: hand.seq + 10, ..hand };
    assert_eq!(lab.answer(inside.segment(flag::RST | flag::ACK, &[])).len(), 0);
    assert_eq!(broken.read(&mut [0; 64]), Read::Data(10), "what arrived before can be read");
    assert_eq!(broken.read(&mut [0; 64]), Read::Broken);
    assert!(broken.is_over() && !broken.is_established());
    assert_eq!((broken.room(), broken.write(b"x")), (0, 0));

    lab.answer(other_hand.segment(flag::ACK, b"fine"));
    assert_eq!(other.read(&mut [0; 64]), Read::Data(4));
    assert_eq!(lab.network.counters().resets, 1);
    drop((broken, other));
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.census(), [0; 4]);
}

#[test]
fn a_peer_that_vanishes_is_asked_and_then_given_up() {
    let mut lab = Lab::new();
    lab.connect(far(1));
    let mut stream = lab.accept();
    let tuning = LISTENER.tuning;
    let probes = lab.pass(tuning.silence_timeout - Duration::from_secs(1));
    assert_eq!(probes.len(), 2, "signs of life asked for at 25 and 50 s");
    assert_eq!(stream.read(&mut [0; 4]), Read::Empty);
    let last = lab.pass(Duration::from_secs(2));
    assert_eq!(last.iter().filter(|frame| Reply::of(frame).flags & flag::RST != 0).count(), 1);
    assert_eq!(stream.read(&mut [0; 4]), Read::Broken);
    assert_eq!(lab.network.counters().timeouts, 1);
    drop(stream);
    assert_eq!(lab.census(), [0; 4]);
}

#[test]
fn a_peer_that_is_there_is_not_given_up() {
    let mut world = World::new(Lab::new());
    let handle = world.peer.connect(50_000);
    let mut stream = None;
    world.run(1000, |lab, _| {
        stream = stream.take().or(lab.network.accept());
        stream.is_some()
    });
    for _ in 0..200_000 {
        world.step(|_, _| ());
    }
    assert_eq!(stream.unwrap().stream.read(&mut [0; 4]), Read::Empty);
    assert_eq!(world.peer.socket(handle).state(), State::Established);
}

#[test]
fn either_side_may_finish_first_and_still_gets_everything() {
    for we_finish_first in [false, true] {
        let mut world = World::new(Lab::new());
        world.faults = [1, 1, 1];
        let handle = world.peer.connect(50_000);
        let data = pattern(200_000);
        let (mut sent, mut got) = (0, Vec::new());
        let (mut peer_sent, mut peer_got) = (0, Vec::new());
        let mut stream = None;
        let mut is_finished = false;
        world.run(120_000, |lab, peer| {
            stream = stream.take().or_else(|| lab.network.accept().map(|new| new.stream));
            let Some(stream) = &mut stream else { return false };
            let mut buffer = [0; 3000];
            match stream.read(&mut buffer) {
                Read::Data(count) => got.extend_from_slice(&buffer[..count]),
                Read::Finished => is_finished = true,
                Read::Empty => {}
                Read::Broken => panic!("broken"),
            }
            let socket = peer.socket(handle);
            if socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), peer_got.extend_from_slice(bytes))).unwrap();
            }
            // The second one to speak begins only when it has heard the other's end.
            if we_finish_first || is_finished {
                sent += stream.write(&data[sent..]);
                if sent == data.len() {
                    stream.finish();
                }
            }
            if (!we_finish_first || peer_got.len() == data.len()) && socket.may_send() {
                peer_sent += socket.send_slice(&data[peer_sent..]).unwrap();
                if peer_sent == data.len() {
                    socket.close();
                }
            }
            is_finished && stream.is_over()
        });
        assert!(got == *data && peer_got == *data, "we finish first: {we_finish_first}");
        assert_eq!(stream.as_mut().unwrap().read(&mut [0; 4]), Read::Finished);
        drop(stream);
        world.run(1000, |lab, _| lab.census() == [0; 4]);
    }
}

#[test]
fn what_arrived_can_be_read_long_after_the_connection_is_over() {
    let mut lab = Lab::new();
    let mut hand = lab.connect(far(1));
    let mut stream = lab.accept();
    stream.finish();
    lab.round();
    assert_eq!(Reply::of(&lab.take_sent()[0]).flags, flag::FIN | flag::ACK);
    hand.ack += 1;
    let frames = lab.answer(hand.segment(flag::FIN | flag::ACK, b"late"));
    let frames = [frames, lab.pass(Duration::from_millis(50))].concat();
    assert_eq!(frames.len(), 1, "the peer's FIN is acknowledged once");
    assert_eq!(Reply::of(&frames[0]).ack, hand.seq + 5);
    assert!(stream.is_over());
    assert_eq!(lab.census(), [1, 0, 0, 0], "only the stream knows of it");

    lab.pass(Duration::from_secs(100));
    assert_eq!(stream.read(&mut [0; 16]), Read::Data(4));
    assert_eq!(stream.read(&mut [0; 16]), Read::Finished);
    drop(stream);
    assert_eq!(lab.census(), [0; 4]);
}

#[test]
fn what_a_task_does_to_its_stream_does_not_wake_it() {
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut lab = Lab::new();
    let mut hand = lab.connect(far(1));
    let mut stream = lab.accept();
    stream.wake_on_change(&waker);
    let check = |expected: usize| assert_eq!(count.0.load(Ordering::Relaxed), expected);
    lab.answer(hand.segment(flag::ACK, b"question"));
    hand.seq += 8;
    check(1);
    assert_eq!(stream.read(&mut [0; 64]), Read::Data(8));
    assert_eq!(stream.write(b"answer"), 6);
    stream.wake_on_change(&waker);
    lab.round();
    assert_eq!(lab.take_sent().len(), 1);
    check(1);
    hand.ack += 6;
    lab.answer(hand.segment(flag::ACK, &[]));
    check(2);
    lab.answer(hand.segment(flag::RST | flag::ACK, &[]));
    check(3);
}

#[test]
fn a_rest_after_the_last_byte_makes_no_timer_late() {
    let micros = Duration::from_micros;
    let mut lab = Lab::new();
    let hand = lab.connect(far(1));
    let mut stream = lab.accept();
    stream.write(b"answer");
    lab.round();
    let first = lab.take_sent();
    assert_eq!(first.len(), 1);
    assert_eq!(lab.pass(micros(15_000)).len(), 0);
    assert_eq!(lab.answer(hand.segment(flag::ACK, b"question")).len(), 0);
    assert_eq!(lab.pass(micros(19_900)).len(), 0);
    let acknowledgement = lab.pass(micros(100));
    assert_eq!(acknowledgement.len(), 1, "20 ms after the question");
    let Reply { ack, payload, .. } = Reply::of(&acknowledgement[0]);
    assert_eq!((ack, payload), (hand.seq + 8, 0));
    assert_eq!(lab.pass(micros(964_900)).len(), 0);
    let again = lab.pass(micros(100));
    assert_eq!(again.len(), 1, "a second after the answer");
    assert_eq!(Reply::of(&again[0]).seq, Reply::of(&first[0]).seq);
}

#[test]
fn a_peer_hears_when_a_full_buffer_is_read() {
    let mut lab = Lab::new();
    let mut hand = lab.connect(far(1));
    let mut stream = lab.accept();
    for _ in 0..16 {
        lab.answer(hand.segment(flag::ACK, &[3; 1024]));
        hand.seq += 1024;
    }
    lab.pass(Duration::from_millis(50));
    let mut buffer = vec![0; 16 << 10];
    assert_eq!(stream.read(&mut buffer), Read::Data(16 << 10));
    lab.round();
    let frames = lab.take_sent();
    assert_eq!(frames.len(), 1, "a window update");
    assert_eq!(u16::from_be_bytes([frames[0][48], frames[0][49]]), 16 << 10);
}

#[test]
fn a_full_transmit_ring_stops_everything_and_loses_nothing() {
    let mut lab = Lab::new();
    let hand = lab.connect(far(1));
    let mut stream = lab.accept();
    lab.capacity.set(0);
    assert_eq!(stream.write(&[1; 500]), 500);
    lab.arrive(hand.segment(flag::ACK, b"waiting"));
    let before = lab.network.counters();
    for _ in 0..100 {
        lab.round();
        assert!(lab.network.is_blocked_on_transmit());
        assert_ne!(
            lab.network.next_deadline(),
            Some(lab.now),
            "it does not ask to be called at once"
        );
    }
    assert_eq!(lab.network.counters(), before, "nothing is looked at while there is no room");
    assert_eq!(stream.read(&mut [0; 16]), Read::Empty, "the frame is still in the ring");

    lab.capacity.set(1);
    lab.round();
    let frames = lab.take_sent();
    assert_eq!(Reply::of(&frames[0]).payload, 500);
    assert_eq!(stream.read(&mut [0; 16]), Read::Data(7));
    lab.round();
    assert!(!lab.network.is_blocked_on_transmit());
}

#[test]
fn room_that_comes_within_a_round_is_not_waited_for() {
    let mut lab = Lab::new();
    let hand = lab.connect(far(1));
    let mut stream = lab.accept();
    lab.arrive(hand.segment(flag::ACK, b"waiting"));
    lab.capacity.set(0);
    assert_eq!(lab.network.poll(lab.now), Progress { frames: 0, has_more: false });
    lab.capacity.set(1);
    // The device will not say again that there is room.
    assert_eq!(lab.network.flush(lab.now), Progress { frames: 0, has_more: true });
    assert!(!lab.network.is_blocked_on_transmit());
    lab.round();
    assert_eq!(stream.read(&mut [0; 16]), Read::Data(7));
}

#[test]
fn arp_requests_for_us_are_answered_and_others_are_not() {
    let mut lab = Lab::new();
    let frames = lab.answer(arp(1, PEER_IP, PEER_MAC, OUR_IP));
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][..6], PEER_MAC);
    assert_eq!(frames[0][20..28], [&[0, 2][..], &OUR_MAC].concat());
    assert_eq!(frames[0][28..32], OUR_IP.octets());
    assert_eq!(frames[0][32..42], [&PEER_MAC[..], &PEER_IP.octets()].concat());
    assert_eq!(lab.answer(arp(1, PEER_IP, PEER_MAC, Ipv4Addr::new(10, 77, 0, 9))).len(), 0);
    assert_eq!(lab.answer(arp(1, OUR_IP, PEER_MAC, OUR_IP)).len(), 0, "an impostor");
    assert_eq!(lab.answer(arp(1, FAR_IP, PEER_MAC, OUR_IP)).len(), 0, "not of this network");
}

#[test]
fn dials_wait_for_their_neighbour_and_ask_once_a_second() {
    let mut lab = Lab::new();
    let mut dialer = lab.network.dialer();
    let mut streams = [dialer.dial(peer(80)).unwrap(), dialer.dial(far(80)).unwrap()];
    lab.round();
    let frames = lab.take_sent();
    assert_eq!(frames.len(), 1, "one question for both: the gateway is the neighbour");
    assert!(is_arp_request(&frames[0]));
    assert_eq!(frames[0][38..42], PEER_IP.octets());
    assert_eq!(lab.census(), [2, 2, 2, 2]);
    let again = lab.pass(Duration::from_millis(1500));
    assert_eq!(again.len(), 1);

    let syns: Vec<_> = lab.answer(arp(2, PEER_IP, PEER_MAC, OUR_IP));
    let syns: Vec<_> = syns.iter().map(|frame| Reply::of(frame)).collect();
    assert_eq!(syns.len(), 2);
    assert!(syns.iter().all(|syn| syn.flags == flag::SYN && syn.to_mac == PEER_MAC));
    assert_eq!(lab.census(), [2, 2, 2, 0]);
    assert!(!streams[0].is_established());
    assert_eq!(streams[0].read(&mut [0; 4]), Read::Empty);
}

#[test]
fn a_dial_that_nobody_answers_breaks_in_time() {
    let mut lab = Lab::new();
    let mut stream = lab.network.dialer().dial(peer(80)).unwrap();
    let questions = lab.pass(Duration::from_millis(2999));
    assert_eq!(questions.iter().filter(|frame| is_arp_request(frame)).count(), 3);
    assert_eq!(stream.read(&mut [0; 4]), Read::Empty);
    lab.pass(Duration::from_millis(2));
    assert_eq!(stream.read(&mut [0; 4]), Read::Broken);
    assert!(stream.is_over());
    drop(stream);
    assert_eq!(lab.census(), [0; 4]);

    lab.answer(arp(2, PEER_IP, PEER_MAC, OUR_IP));
    let mut stream = lab.network.dialer().dial(peer(80)).unwrap();
    let syns = lab.pass(Duration::from_millis(2999));
    assert!(syns.iter().filter(|frame| !is_arp_request(frame)).count() >= 2, "SYN is repeated");
    lab.pass(Duration::from_millis(2));
    assert_eq!(stream.read(&mut [0; 4]), Read::Broken);
    assert_eq!(lab.network.counters().failed_dials, 2);
}

#[test]
fn a_dial_that_is_refused_breaks_and_one_that_is_dropped_goes() {
    let mut world = World::new(Lab::new());
    let mut dialer = world.lab.network.dialer();
    let mut refused = dialer.dial(peer(81)).unwrap();
    world.run(2000, |_, _| refused.read(&mut [0; 4]) == Read::Broken);
    assert!(!refused.is_established() && refused.is_over());

    let dropped = dialer.dial(peer(82)).unwrap();
    drop(dropped);
    drop(refused);
    assert_eq!(world.lab.census(), [0; 4]);
}

#[test]
fn dials_are_limited_and_their_places_come_back() {
    let lab = Lab::new();
    let mut dialer = lab.network.dialer();
    let streams: Vec<_> = (0..8).map(|_| dialer.dial(peer(80)).unwrap()).collect();
    let mut ports: Vec<_> = streams.iter().map(TcpStream::local_port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 8, "every connection has a port of its own");
    assert!(ports.iter().all(|&port| port >= 49_152));
    assert!(matches!(dialer.dial(peer(80)), Err(DialError::NoPlace)));
    drop(streams);
    assert!(dialer.dial(peer(80)).is_ok());
}

#[test]
fn no_way_leads_to_some_addresses() {
    let check = |gateway, to: [u8; 4], port, is_ok: bool| {
        let lab = Lab::with(Config { gateway, ..config() }, LISTENER, false);
        let result = lab.network.dialer().dial(SocketAddrV4::new(to.into(), port));
        match result {
            Ok(_) => assert!(is_ok, "{to:?}"),
            Err(error) => assert!(!is_ok && error == DialError::NoRoute, "{to:?}: {error:?}"),
        }
    };
    check(None, FAR_IP.octets(), 80, false);
    check(Some(PEER_IP), FAR_IP.octets(), 80, true);
    check(None, PEER_IP.octets(), 80, true);
    check(None, PEER_IP.octets(), 0, false);
    check(None, OUR_IP.octets(), 80, false);
    for special in [[10, 77, 0, 255], [10, 77, 0, 0], [0; 4], [255; 4], [224, 0, 0, 1]] {
        check(Some(PEER_IP), special, 80, false);
    }
    check(Some(PEER_IP), [127, 0, 0, 1], 80, false);
}

#[test]
fn a_dial_can_be_finished_before_it_is_established() {
    let mut world = World::new(Lab::new());
    let handle = world.peer.listen(80);
    let mut stream = world.lab.network.dialer().dial(peer(80)).unwrap();
    stream.finish();
    world.run(5000, |_, peer| peer.socket(handle).state() == State::CloseWait);
    world.peer.socket(handle).close();
    world.run(5000, |_, _| stream.is_over());
    assert_eq!(stream.read(&mut [0; 4]), Read::Finished);
}

#[test]
fn a_finished_stream_may_be_dropped_and_the_rest_still_arrives() {
    let mut world = World::new(Lab::new());
    world.faults = [2, 0, 0];
    let handle = world.peer.connect(50_000);
    let data = pattern(60_000);
    let mut got = Vec::new();
    world.run(100_000, |lab, peer| {
        if let Some(accepted) = lab.network.accept() {
            let mut stream = accepted.stream;
            assert_eq!(stream.write(&data), data.len());
            stream.finish();
        }
        let socket = peer.socket(handle);
        if socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
        }
        socket.state() == State::CloseWait && !socket.can_recv()
    });
    assert!(got == *data);
    world.peer.socket(handle).close();
    world.run(10_000, |lab, _| lab.census() == [0; 4]);
    assert_eq!(world.lab.network.counters().aborts, 0);
}

#[test]
fn lingering_is_bounded_in_time_and_number() {
    let mut lab = Lab::new();
    let mut frames = Vec::new();
    for port in 1..=5 {
        lab.connect(far(port));
        let mut stream = lab.accept();
        stream.write(b"never acknowledged");
        stream.finish();
        drop(stream);
        lab.round();
        frames = lab.take_sent();
    }
    let resets = |frames: &[Vec<u8>]| {
        frames.iter().filter(|frame| Reply::of(frame).flags & flag::RST != 0).count()
    };
    assert_eq!(resets(&frames), 1, "four may linger, the fifth is reset");
    assert_eq!(lab.census()[0], 4);
    assert_eq!(resets(&lab.pass(Duration::from_secs(11))), 4);
    assert_eq!(lab.census(), [0; 4]);
}

#[test]
fn a_lingering_connection_throws_away_what_comes() {
    let mut lab = Lab::new();
    let mut hand = lab.connect(far(1));
    let mut stream = lab.accept();
    stream.finish();
    drop(stream);
    lab.round();
    hand.ack += 1;
    for _ in 0..40 {
        lab.answer(hand.segment(flag::ACK, &[0; 1000]));
        hand.seq += 1000;
    }
    let frames = lab.answer(hand.segment(flag::FIN | flag::ACK, &[]));
    let frames = [frames, lab.pass(Duration::from_millis(50))].concat();
    let last = Reply::of(frames.last().unwrap());
    assert_eq!((last.ack, last.flags), (hand.seq + 1, flag::ACK));
    assert_eq!(lab.census(), [0; 4]);
}

#[test]
fn a_dropped_stream_is_reset() {
    let mut lab = Lab::new();
    let hand = lab.connect(far(1));
    drop(lab.accept());
    lab.round();
    let frames = lab.take_sent();
    assert_eq!(frames.len(), 1);
    let reply = Reply::of(&frames[0]);
    assert_eq!((reply.flags & flag::RST, reply.seq), (flag::RST, hand.ack));
    assert_eq!(lab.census(), [0; 4]);
}

#[test]
fn frames_that_are_not_worth_it_are_dropped_and_counted() {
    let syn = Hand { from: far(1), seq: 1, ack: 0, port: PORT }.segment(flag::SYN, &[]);
    let check = |change: &dyn Fn(&mut Vec<u8>), counter: fn(&Counters) -> u64| {
        let mut lab = Lab::new();
        let mut frame = syn.clone();
        change(&mut frame);
        assert_eq!(lab.answer(frame).len(), 0);
        let counters = lab.network.counters();
        assert_eq!((counter(&counters), counters.frames_in, counters.connections), (1, 1, 0));
    };
    let with = |at: usize, bytes: &'static [u8]| {
        move |frame: &mut Vec<u8>| {
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            fix(frame);
        }
    };
    check(&|frame| frame[0..6].fill(0xff), |c| c.not_ours);
    check(&with(0, &[0x52, 0x54, 0, 0x77, 0, 3]), |c| c.not_ours);
    check(&with(0, &[1, 0, 0x5e, 0, 0, 1]), |c| c.not_ours);
    check(&with(30, &[10, 77, 0, 9]), |c| c.not_ours);
    check(&with(30, &[10, 77, 0, 255]), |c| c.not_ours);
    check(&with(12, &[0x86, 0xdd]), |c| c.protocols);
    check(&with(23, &[17]), |c| c.protocols);
    check(&with(20, &[0x20, 0]), |c| c.fragments);
    check(&with(20, &[0x40, 1]), |c| c.fragments);
    check(&with(20, &[0x80, 0]), |c| c.fragments);
    check(&with(14, &[0x46]), |c| c.options);
    check(&with(14, &[0x44]), |c| c.malformed);
    check(&with(14, &[0x65]), |c| c.malformed);
    check(&with(16, &[0, 19]), |c| c.malformed);
    check(&with(16, &[0, 200]), |c| c.malformed);
    check(&|frame| frame[24] ^= 1, |c| c.malformed);
    check(&|frame| frame[51] ^= 1, |c| c.checksums);
    check(&|frame| frame.truncate(53), |c| c.malformed);
    check(&|frame| frame.resize(1515, 0), |c| c.malformed);
    check(&with(6, &[0xff; 6]), |c| c.martians);
    check(&with(26, &[10, 77, 0, 2]), |c| c.martians);
    check(&with(26, &[10, 77, 0, 255]), |c| c.martians);
    check(&with(26, &[127, 0, 0, 1]), |c| c.martians);
    check(&with(26, &[0; 4]), |c| c.martians);
    check(&with(26, &[224, 0, 0, 1]), |c| c.martians);
    check(&with(26, &[255; 4]), |c| c.martians);
    check(&with(34, &[0, 0]), |c| c.malformed);
    check(&with(36, &[0, 0]), |c| c.malformed);
    check(&with(46, &[0x40]), |c| c.malformed);
    check(&with(46, &[0x60]), |c| c.malformed);
    check(&with(47, &[flag::SYN | flag::FIN]), |c| c.malformed);
    check(&with(47, &[flag::SYN | flag::RST]), |c| c.malformed);
}

#[test]
fn a_trusted_checksum_is_not_looked_at() {
    let mut frame = Hand { from: far(1), seq: 1, ack: 0, port: PORT }.segment(flag::SYN, &[]);
    frame[50..52].fill(0);
    let mut lab = Lab::new();
    assert_eq!(lab.answer(frame.clone()).len(), 0);
    assert_eq!(lab.network.counters().checksums, 1);
    lab.is_trusted.set(true);
    assert_eq!(lab.answer(frame).len(), 1);
}

#[test]
fn strays_are_answered_where_they_came_from() {
    let mut lab = Lab::new();
    let closed = Hand { from: far(1), seq: 5, ack: 0, port: 444 };
    let reply = Reply::of(&lab.answer(closed.segment(flag::SYN, &[]))[0]);
    assert_eq!((reply.flags, reply.ack, reply.to_mac), (flag::RST | flag::ACK, 6, PEER_MAC));
    let unknown = Hand { from: far(1), seq: 5, ack: 99, port: PORT };
    let reply = Reply::of(&lab.answer(unknown.segment(flag::ACK, b"hi"))[0]);
    assert_eq!((reply.flags, reply.seq), (flag::RST, 99));
    assert_eq!(lab.answer(unknown.segment(flag::RST, &[])).len(), 0, "no reset for a reset");

    let mut ping = vec![8, 0, 0, 0, 0, 1, 0, 2, b'p', b'i', b'n', b'g'];
    let sum = !super::checksum::fold(super::checksum::sum(&ping));
    ping[2..4].copy_from_slice(&sum.to_be_bytes());
    let frames = lab.answer(packet(FAR_IP, 1, ping));
    assert_eq!((&frames[0][..6], frames[0][34]), (&PEER_MAC[..], 0));
    assert_eq!(frames[0][38..], [0, 1, 0, 2, b'p', b'i', b'n', b'g']);
    assert_eq!(lab.census(), [0; 4]);
}

#[test]
fn answers_follow_a_router_but_not_an_imitator_of_a_neighbour() {
    let check = |from: SocketAddrV4, expected: [u8; 6]| {
        let mut lab = Lab::new();
        let hand = lab.connect(from);
        let mut stream = lab.accept();
        let mut frame = hand.segment(flag::ACK, b"from another machine");
        frame[6..12].copy_from_slice(&[2; 6]);
        lab.answer(frame);
        stream.write(b"answer");
        lab.round();
        assert_eq!(Reply::of(&lab.take_sent()[0]).to_mac, expected);
    };
    check(far(1), [2; 6]);
    check(peer(1), PEER_MAC);
}

#[test]
fn garbage_of_every_length_is_survived() {
    let mut lab = Lab::new();
    let hand = lab.connect(far(1));
    let mut stream = lab.accept();
    let mut dice = Dice(42);
    let models = [
        hand.segment(flag::ACK, &[1; 1460]),
        arp(1, PEER_IP, PEER_MAC, OUR_IP),
        packet(FAR_IP, 1, vec![8; 1480]),
        Vec::new(),
    ];
    for length in 0..=1514 {
        for model in &models {
            // A plausible beginning, then noise, with and without right sums.
            let mut frame: Vec<u8> = (0..length).map(|_| dice.roll() as u8).collect();
            let plausible = model.len().min(length).min(dice.roll() as usize % 60);
            frame[..plausible].copy_from_slice(&model[..plausible]);
            lab.answer(frame.clone());
            if length >= 34 {
                let total = (length as u16 - 14).to_be_bytes();
                frame[16..18].copy_from_slice(&total);
                fix(&mut frame);
                lab.answer(frame);
            }
            // The same, cut short.
            lab.answer(model[..model.len().min(length)].to_vec());
        }
    }
    stream.abort();
    drop(stream);
    lab.pass(Duration::from_secs(10));
    assert_eq!(lab.census(), [0; 4]);
}

#[test]
fn hostile_segments_on_an_open_connection_are_survived() {
    let tuning = Tuning { receive_bytes: u16::MAX, ..LISTENER.tuning };
    let mut dice = Dice(4711);
    for _ in 0..100 {
        let mut lab = Lab::with(config(), Listener { tuning, ..LISTENER }, false);
        let hand = lab.connect(far(1));
        let mut stream = lab.accept();
        for _ in 0..100 {
            let mut near = |to: u32| match dice.roll() % 4 {
                0 => to,
                1 => to.wrapping_add(dice.roll() as u32 % 70_000),
                2 => to.wrapping_sub(dice.roll() as u32 % 70_000),
                _ => dice.roll() as u32,
            };
            let hostile = Hand { seq: near(hand.seq), ack: near(hand.ack), ..hand };
            let payload = vec![0; dice.roll() as usize % 1400];
            let mut frame = hostile.segment(dice.roll() as u8 & 0x3b, &payload);
            frame[48..50].copy_from_slice(&(dice.roll() as u16).to_be_bytes());
            let words = 5 + (dice.roll() as usize % 11).min(payload.len() / 4);
            frame[46] = (words as u8) << 4;
            frame[54..34 + words * 4].fill_with(|| dice.roll() as u8 % 10);
            fix(&mut frame);
            lab.answer(frame);
            stream.write(&[1; 700]);
            stream.read(&mut [0; 900]);
            if dice.happens(1) {
                stream.finish();
            }
            lab.pass(Duration::from_millis(dice.roll() % 300));
        }
        drop(stream);
        lab.pass(Duration::from_secs(61));
        assert_eq!(lab.census(), [0; 4]);
    }
}

#[test]
fn a_first_segment_beyond_the_buffer_is_survived() {
    // With a buffer of more than 65,535 bytes smoltcp takes it for inside the window, and panics.
    let tuning = Tuning { receive_bytes: u16::MAX, ..LISTENER.tuning };
    for ahead in [64_800, 65_534, 65_535, 130_800, 200_000] {
        let mut lab = Lab::with(config(), Listener { tuning, ..LISTENER }, false);
        let mut hand = lab.connect(far(1));
        let mut stream = lab.accept();
        lab.answer(Hand { seq: hand.seq + ahead, ..hand }.segment(flag::ACK, &[9; 1460]));
        for _ in 0..150 {
            lab.answer(hand.segment(flag::ACK, &[1; 1460]));
            hand.seq += 1460;
        }
        let mut buffer = [0; 1460];
        assert_eq!(stream.read(&mut buffer), Read::Data(1460));
        assert!(!stream.is_over());
    }
}

#[test]
fn nothing_is_left_of_connections_that_ended_in_every_way() {
    let mut world = World::new(Lab::new());
    world.faults = [2, 1, 2];
    let mut streams: Vec<TcpStream> = Vec::new();
    for port in 0..200u16 {
        let handle = world.peer.connect(30_000 + port);
        let mut age = 0;
        world.run(20_000, |lab, peer| {
            if let Some(accepted) = lab.network.accept() {
                streams.push(accepted.stream);
            }
            age += streams.len();
            let socket = peer.socket(handle);
            match (port % 5, streams.last_mut()) {
                (_, None) => return false,
                (0, Some(_)) => streams.clear(),
                (1, Some(stream)) => stream.abort(),
                (2, Some(stream)) => {
                    stream.finish();
                    streams.clear();
                }
                (3, Some(_)) => socket.abort(),
                (_, Some(stream)) => {
                    socket.close();
                    stream.finish();
                }
            }
            true
        });
        streams.clear();
        world.step(|_, peer| peer.socket(handle).abort());
        world.peer.sockets.remove(handle);
        assert!(age > 0);
    }
    world.run(70_000, |lab, _| lab.census() == [0; 4]);
    let counters = world.lab.network.counters();
    assert_eq!((counters.connections, counters.half_open), (0, 0));
    assert_eq!(counters.accepted, 200);
}

#[test]
fn renewal_breaks_everything_in_silence() {
    let mut lab = Lab::new();
    let hand = lab.connect(far(1));
    let mut stream = lab.accept();
    lab.answer(Hand { from: far(2), ..hand }.segment(flag::SYN, &[]));
    let mut dialled = lab.network.dialer().dial(peer(80)).unwrap();
    lab.round();
    lab.take_sent();
    let queued = lab.connect(far(3));
    lab.network.renew([9; 32]);
    lab.round();
    assert_eq!(lab.take_sent().len(), 0);
    for stream in [&mut stream, &mut dialled, &mut lab.accept()] {
        assert_eq!(stream.read(&mut [0; 4]), Read::Broken);
        assert!(stream.is_over());
    }
    assert_eq!(Reply::of(&lab.answer(queued.segment(flag::ACK, b"?"))[0]).flags, flag::RST);
    drop((stream, dialled));
    assert_eq!(lab.census(), [0; 4]);
    lab.connect(far(4));
}

#[test]
fn configurations_that_contradict_themselves_are_refused() {
    let check = |change: fn(&mut Config), expected: ConfigError| {
        let mut changed = config();
        change(&mut changed);
        assert_eq!(changed.identity().unwrap_err(), expected);
    };
    assert!(config().identity().is_ok());
    check(|c| c.mac = [0; 6], ConfigError::Mac([0; 6]));
    check(|c| c.mac[0] = 1, ConfigError::Mac([1, 0x54, 0, 0x77, 0, 2]));
    check(|c| c.prefix = 0, ConfigError::Prefix(0));
    check(|c| c.prefix = 31, ConfigError::Prefix(31));
    check(|c| c.address = [10, 77, 0, 255].into(), ConfigError::Address([10, 77, 0, 255].into()));
    check(|c| c.address = [127, 0, 0, 1].into(), ConfigError::Address([127, 0, 0, 1].into()));
    check(|c| c.gateway = Some(FAR_IP), ConfigError::Gateway(FAR_IP));
    check(|c| c.gateway = Some(OUR_IP), ConfigError::Gateway(OUR_IP));
}

#[test]
fn ports_are_listened_on_once() {
    let mut lab = Lab::new();
    let mut check = |port, expected| assert_eq!(lab.network.listen(port, LISTENER), expected);
    check(PORT, Err(ListenError::InUse(PORT)));
    check(0, Err(ListenError::Port(0)));
    check(49_152, Err(ListenError::Port(49_152)));
    check(80, Ok(()));
}
