//! Sees every access of the driver to shared memory before it happens.

use core::cell::RefCell;
use std::boxed::Box;
use std::vec::Vec;

use abi::Span;

use super::super::shared::Access;

std::thread_local! {
    static WATCH: RefCell<Watch> = RefCell::new(Watch::default());
}

/// What the driver did, for the order of it. Addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Event {
    Fence,
    Notify(u16),
    Read(u64),
    Write(u64),
}

/// What happens between two accesses: gets how many there were before.
type Act = Box<dyn FnMut(u32)>;

#[derive(Default)]
struct Watch {
    readable: Vec<Span>,
    writable: Vec<Span>,
    doorbell: u64,
    rings: u32,
    accesses: u32,
    events: Option<Vec<Event>>,
    act: Option<Act>,
}

/// Called by the code under test.
pub(in super::super) fn before(access: Access, span: Span) {
    let (act, accesses) = WATCH.with_borrow_mut(|watch| {
        watch.check(access, &span);
        watch.accesses = watch.accesses.wrapping_add(1);
        (watch.act.take(), watch.accesses - 1)
    });
    if let Some(mut act) = act {
        act(accesses);
        WATCH.with_borrow_mut(|watch| watch.act = Some(act));
    }
}

/// Called by the code under test instead of the gate.
pub(in super::super) fn notify(queue: u16) {
    WATCH.with_borrow_mut(|watch| {
        watch.note(Event::Notify(queue));
        watch.rings += 1;
    });
}

/// Called by the code under test, after a full fence.
pub(in super::super) fn fenced() {
    WATCH.with_borrow_mut(|watch| watch.note(Event::Fence));
}

impl Watch {
    fn note(&mut self, event: Event) {
        if let Some(events) = &mut self.events {
            events.push(event);
        }
    }

    fn check(&mut self, access: Access, span: &Span) {
        let allowed = match access {
            Access::Read => &self.readable,
            Access::Write => &self.writable,
        };
        let is_inside = allowed.iter().any(|allowed| allowed.covers(span));
        assert!(is_inside, "{access:?} of {span:?} lies outside what the driver may touch");
        self.note(match access {
            Access::Read => Event::Read(span.start),
            Access::Write => Event::Write(span.start),
        });
        if access == Access::Write && span.start == self.doorbell {
            self.rings += 1;
        }
    }
}

/// Says what this thread's driver may touch.
pub(in super::super) fn allow(readable: Vec<Span>, writable: Vec<Span>, doorbell: u64) {
    WATCH.with_borrow_mut(|watch| {
        *watch = Watch { readable, writable, doorbell, ..Watch::default() };
    });
}

/// How often the bell has been rung since the last call.
pub(in super::super) fn take_rings() -> u32 {
    WATCH.with_borrow_mut(|watch| core::mem::take(&mut watch.rings))
}

/// Runs `driver`, and `act` before each of its accesses, the first of which is number 0.
pub(in super::super) fn interleave<R>(
    driver: impl FnOnce() -> R,
    act: impl FnMut(u32) + 'static,
) -> R {
    WATCH.with_borrow_mut(|watch| {
        watch.accesses = 0;
        watch.act = Some(Box::new(act));
    });
    let result = driver();
    WATCH.with_borrow_mut(|watch| watch.act = None);
    result
}

/// Runs `driver` and says in which order it did what.
pub(in super::super) fn trace(driver: impl FnOnce()) -> Vec<Event> {
    WATCH.with_borrow_mut(|watch| watch.events = Some(Vec::new()));
    driver();
    WATCH.with_borrow_mut(|watch| watch.events.take()).unwrap_or_default()
}
