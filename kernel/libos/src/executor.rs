//! One task a connection, on one processor, without preemption.
//!
//! A task is polled when something woke it, once a round; the main loop puts frames in before the
//! tasks and takes frames out after them. Time stands still within a round.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Waker};

use spin::mutex::SpinMutex;

use crate::clock::Instant;
use crate::net::timers::Timers;
use crate::stream::Timer;

/// How many tasks one round polls at most.
pub const STEP_BUDGET: usize = 256;

/// How many deadlines there may be for wakers that are not the polled task's own.
const MAX_FOREIGN_DEADLINES: usize = 64;

/// As many tasks as there may be exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl core::fmt::Display for Full {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "as many tasks as the image allows exist already")
    }
}

impl core::error::Error for Full {}

/// What a round did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// How many tasks were polled.
    pub polled: usize,
    /// Whether tasks are ready for another round at once.
    pub has_more: bool,
}

/// Runs tasks. Copies of it run the same tasks, so a task may spawn others.
#[derive(Clone)]
pub struct Executor {
    shared: Rc<Shared>,
}

/// The time of the round, and a way to be woken at another.
#[derive(Clone)]
pub struct Clock {
    shared: Rc<Shared>,
}

struct Shared {
    now: Cell<Instant>,
    ready: Arc<Ready>,
    tasks: RefCell<Tasks>,
}

struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
    max: usize,
    timers: Timers,
    foreign: Vec<(Instant, Waker)>,
    polled: Option<u32>,
}

/// A place for a task. It keeps its waker when the task has ended, for the next one.
struct Slot {
    future: Option<Task>,
    signal: Arc<Signal>,
    /// None while the task is polled with it.
    waker: Option<Waker>,
    /// When the task wants to be woken.
    deadline: Instant,
    /// Its entry among the timers, which may be earlier.
    queued_at: Instant,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks that are ready, in the order in which they were woken.
struct Ready {
    queue: SpinMutex<VecDeque<u32>>,
}

/// Wakes one slot's task.
struct Signal {
    slot: u32,
    is_queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            self.ready.queue.lock().push_back(self.slot);
        }
    }
}

impl Signal {
    /// Whether `waker` wakes this slot's task.
    fn is_behind(self: &Arc<Self>, waker: &Waker) -> bool {
        core::ptr::eq(waker.data(), Arc::as_ptr(self).cast())
    }
}

impl Executor {
    /// An executor for at most `max` tasks at a time.
    pub fn new(max: usize) -> Self {
        let tasks = Tasks {
            slots: Vec::new(),
            free: Vec::new(),
            max,
            timers: Timers::default(),
            foreign: Vec::new(),
            polled: None,
        };
        let shared = Shared {
            now: Cell::default(),
            ready: Arc::new(Ready { queue: SpinMutex::new(VecDeque::new()) }),
            tasks: RefCell::new(tasks),
        };
        Self { shared: Rc::new(shared) }
    }

    /// Adds a task. It is polled in the next round, or in this one if its turn comes.
    ///
    /// # Errors
    ///
    /// [`Full`]; the future is dropped then.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> Result<(), Full> {
        let mut tasks = self.shared.tasks.borrow_mut();
        let tasks = &mut *tasks;
        let slot = match tasks.free.pop() {
            Some(slot) => slot,
            None if tasks.slots.len() < tasks.max => {
                let slot = tasks.slots.len() as u32;
                tasks.slots.push(Slot::new(slot, &self.shared.ready));
                slot
            }
            None => return Err(Full),
        };
        if let Some(place) = tasks.slots.get_mut(slot as usize) {
            place.future = Some(Box::pin(future));
            place.signal.is_queued.store(false, Ordering::Release);
            place.signal.wake_by_ref();
        }
        Ok(())
    }

    /// The time, for tasks.
    pub fn clock(&self) -> Clock {
        Clock { shared: Rc::clone(&self.shared) }
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        let tasks = self.shared.tasks.borrow();
        tasks.slots.len() - tasks.free.len()
    }

    /// Whether there is no task.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One round: wakes tasks whose deadline has come, then polls each ready task once.
    ///
    /// What becomes ready meanwhile waits for the next round.
    pub fn run(&self, now: Instant) -> Round {
        self.shared.now.set(now);
        self.wake_due(now);
        let ready = self.shared.ready.queue.lock().len();
        let mut polled = 0;
        for _ in 0..ready.min(STEP_BUDGET) {
            let Some(slot) = self.shared.ready.queue.lock().pop_front() else { break };
            self.step(slot);
            polled += 1;
        }
        Round { polled, has_more: self.has_ready() }
    }

    /// Whether tasks are ready to run.
    pub fn has_ready(&self) -> bool {
        !self.shared.ready.queue.lock().is_empty()
    }

    /// When a round is due even if nothing wakes a task.
    pub fn next_deadline(&self) -> Option<Instant> {
        let tasks = self.shared.tasks.borrow();
        let foreign = tasks.foreign.iter().map(|&(at, _)| at);
        foreign.chain(tasks.timers.next()).min()
    }

    fn wake_due(&self, now: Instant) {
        let mut tasks = self.shared.tasks.borrow_mut();
        let tasks = &mut *tasks;
        // Each entry is taken out once, and those entered meanwhile lie ahead.
        while let Some(slot) = tasks.timers.take_due(now) {
            let Some(place) = tasks.slots.get_mut(slot as usize) else { continue };
            place.queued_at = Instant::NEVER;
            if place.deadline <= now {
                place.deadline = Instant::NEVER;
                place.signal.wake_by_ref();
            } else {
                tasks.timers.arm(slot, &mut place.queued_at, place.deadline);
            }
        }
        tasks.foreign.retain(|(at, waker)| {
            let is_due = *at <= now;
            if is_due {
                waker.wake_by_ref();
            }
            !is_due
        });
    }

    /// Polls one task. Nothing is borrowed meanwhile, so the task may use the executor.
    fn step(&self, slot: u32) {
        let taken = {
            let mut tasks = self.shared.tasks.borrow_mut();
            tasks.polled = Some(slot);
            tasks.slots.get_mut(slot as usize).and_then(|place| {
                place.signal.is_queued.store(false, Ordering::Release);
                Some((place.future.take()?, place.waker.take()?))
            })
        };
        let Some((mut future, waker)) = taken else { return };
        let is_done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let future = if is_done {
            // What it owned may wake others or drop streams, so it goes before the slot is free.
            drop(future);
            None
        } else {
            Some(future)
        };
        let mut tasks = self.shared.tasks.borrow_mut();
        tasks.polled = None;
        if let Some(place) = tasks.slots.get_mut(slot as usize) {
            place.waker = Some(waker);
            place.future = future;
        }
        if is_done {
            self.retire(&mut tasks, slot);
        }
    }

    /// Frees the slot of a task that has ended.
    fn retire(&self, tasks: &mut Tasks, slot: u32) {
        let Some(place) = tasks.slots.get_mut(slot as usize) else { return };
        tasks.timers.disarm(slot, &mut place.queued_at);
        place.deadline = Instant::NEVER;
        // Wakers of it may be left somewhere: with this set they do nothing.
        if place.signal.is_queued.swap(true, Ordering::AcqRel) {
            self.shared.ready.queue.lock().retain(|&queued| queued != slot);
        }
        tasks.free.push(slot);
    }
}

impl Slot {
    fn new(slot: u32, ready: &Arc<Ready>) -> Self {
        let signal =
            Arc::new(Signal { slot, is_queued: AtomicBool::new(true), ready: Arc::clone(ready) });
        Self {
            future: None,
            waker: Some(Waker::from(Arc::clone(&signal))),
            signal,
            deadline: Instant::NEVER,
            queued_at: Instant::NEVER,
        }
    }
}

impl Timer for Clock {
    fn now(&self) -> Instant {
        self.shared.now.get()
    }

    fn wake_at(&self, deadline: Instant, waker: &Waker) {
        let mut tasks = self.shared.tasks.borrow_mut();
        let tasks = &mut *tasks;
        let polled = tasks.polled.and_then(|slot| {
            let place = tasks.slots.get_mut(slot as usize)?;
            place.signal.is_behind(waker).then_some((slot, place))
        });
        if let Some((slot, place)) = polled {
            place.deadline = deadline;
            tasks.timers.arm(slot, &mut place.queued_at, deadline);
            return;
        }
        tasks.foreign.retain(|(_, known)| !known.will_wake(waker));
        if tasks.foreign.len() < MAX_FOREIGN_DEADLINES {
            tasks.foreign.push((deadline, waker.clone()));
        } else {
            // Too early is better than never.
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::rc::Rc;
    use core::cell::RefCell;
    use core::future::poll_fn;
    use core::task::Poll;
    use std::time::Duration;

    use super::*;

    const fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    /// A task that notes each poll's time and waker, and ends once it is told to.
    #[derive(Clone, Default)]
    struct Probe {
        polls: Rc<RefCell<Vec<Instant>>>,
        waker: Rc<RefCell<Option<Waker>>>,
        is_done: Rc<Cell<bool>>,
    }

    impl Probe {
        fn spawn(&self, executor: &Executor) {
            let (probe, clock) = (self.clone(), executor.clock());
            let task = poll_fn(move |context| {
                probe.polls.borrow_mut().push(clock.now());
                *probe.waker.borrow_mut() = Some(context.waker().clone());
                if probe.is_done.get() { Poll::Ready(()) } else { Poll::Pending }
            });
            executor.spawn(task).unwrap();
        }

        fn wake(&self) {
            self.waker.borrow().as_ref().unwrap().wake_by_ref();
        }

        fn count(&self) -> usize {
            self.polls.borrow().len()
        }
    }

    #[test]
    fn a_task_is_polled_once_a_round_however_often_it_is_woken() {
        let executor = Executor::new(4);
        let probe = Probe::default();
        probe.spawn(&executor);
        assert_eq!(executor.run(at(1)), Round { polled: 1, has_more: false });
        assert_eq!(executor.run(at(2)), Round { polled: 0, has_more: false });
        probe.wake();
        probe.wake();
        assert!(executor.has_ready());
        assert_eq!(executor.run(at(3)), Round { polled: 1, has_more: false });
        assert_eq!(*probe.polls.borrow(), [at(1), at(3)]);
    }

    #[test]
    fn a_task_that_wakes_itself_waits_for_the_next_round() {
        let executor = Executor::new(1);
        let task = poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        executor.spawn(task).unwrap();
        for round in 0..3 {
            assert_eq!(executor.run(at(round)), Round { polled: 1, has_more: true });
        }
    }

    #[test]
    fn tasks_are_bounded_and_their_places_are_used_again() {
        let executor = Executor::new(2);
        let (one, two) = (Probe::default(), Probe::default());
        one.spawn(&executor);
        two.spawn(&executor);
        executor.run(at(0));
        assert_eq!(executor.spawn(async {}), Err(Full));
        one.is_done.set(true);
        one.wake();
        executor.run(at(1));
        assert_eq!(executor.len(), 1);

        let three = Probe::default();
        three.spawn(&executor);
        executor.run(at(2));
        one.wake();
        executor.run(at(3));
        assert!(three.count() <= 2, "a dead task's waker costs its successor one poll at most");
        assert_eq!((one.count(), executor.len()), (2, 2));
    }

    #[test]
    fn a_task_that_ends_while_it_is_woken_leaves_nothing_behind() {
        let executor = Executor::new(1);
        for round in 0..10 {
            let task = poll_fn(|context| {
                context.waker().wake_by_ref();
                Poll::Ready(())
            });
            executor.spawn(task).unwrap();
            assert_eq!(executor.run(at(round)), Round { polled: 1, has_more: false });
            assert!(executor.is_empty());
        }
    }

    #[test]
    fn a_round_stops_at_its_budget() {
        let executor = Executor::new(STEP_BUDGET + 10);
        for _ in 0..STEP_BUDGET + 10 {
            executor.spawn(async {}).unwrap();
        }
        assert_eq!(executor.run(at(0)), Round { polled: STEP_BUDGET, has_more: true });
        assert_eq!(executor.run(at(0)), Round { polled: 10, has_more: false });
        assert!(executor.is_empty());
    }

    #[test]
    fn a_later_deadline_replaces_an_earlier_one() {
        let executor = Executor::new(1);
        let clock = executor.clock();
        let polls = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&polls);
        let task = poll_fn(move |context| {
            seen.borrow_mut().push(clock.now());
            if seen.borrow().len() == 1 {
                clock.wake_at(at(10), context.waker());
                clock.wake_at(at(30), context.waker());
            }
            Poll::<()>::Pending
        });
        executor.spawn(task).unwrap();
        executor.run(at(0));
        executor.run(at(10));
        executor.run(at(29));
        assert_eq!(executor.next_deadline(), Some(at(30)));
        executor.run(at(30));
        assert_eq!(*polls.borrow(), [at(0), at(30)]);
        assert_eq!(executor.next_deadline(), None);
    }

    #[test]
    fn deadlines_do_not_pile_up() {
        let executor = Executor::new(1);
        let clock = executor.clock();
        let task = poll_fn(move |context| {
            let soon = clock.now() + Duration::from_micros(3);
            for step in 0..1000 {
                clock.wake_at(soon + Duration::from_micros(step), context.waker());
                clock.wake_at(soon, context.waker());
            }
            Poll::<()>::Pending
        });
        executor.spawn(task).unwrap();
        for round in 0..100 {
            executor.run(at(round));
            assert_eq!(executor.shared.tasks.borrow().timers.len(), 1);
        }
    }

    #[test]
    fn wakers_of_others_have_deadlines_too_and_those_are_bounded() {
        struct Count(core::sync::atomic::AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let executor = Executor::new(1);
        let clock = executor.clock();
        let counts: Vec<_> =
            (0..=MAX_FOREIGN_DEADLINES).map(|_| Arc::new(Count(0.into()))).collect();
        for count in &counts {
            let waker = Waker::from(Arc::clone(count));
            clock.wake_at(at(20), &waker);
            clock.wake_at(at(10), &waker);
        }
        let woken =
            || counts.iter().map(|count| count.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(woken()[..MAX_FOREIGN_DEADLINES], [0; MAX_FOREIGN_DEADLINES]);
        assert!(woken()[MAX_FOREIGN_DEADLINES] > 0, "one too many is woken at once");
        executor.run(at(10));
        executor.run(at(20));
        assert_eq!(woken()[..MAX_FOREIGN_DEADLINES], [1; MAX_FOREIGN_DEADLINES]);
        assert_eq!(executor.next_deadline(), None);
    }

    #[test]
    fn a_task_may_spawn_another() {
        let executor = Executor::new(2);
        let inner = executor.clone();
        let probe = Probe::default();
        let child = probe.clone();
        executor.spawn(async move { child.spawn(&inner) }).unwrap();
        executor.run(at(0));
        executor.run(at(0));
        assert_eq!((probe.count(), executor.len()), (1, 1));
    }
}
