//! How fast the clocks run, and what time it is.

use abi::handoff::ClockSource;

use super::{cpu, port, tsc};
use crate::describe::Firmware;
use crate::image::Image;
use crate::quiet::Machine;
use crate::refusal::Refusal;

/// The ACPI power management timer's rate (ACPI 6.5, 4.8.2.1).
const PM_TIMER_HZ: u64 = 3_579_545;
/// The PIT's rate.
const PIT_HZ: u64 = 1_193_182;
/// We measure so many times, a quarter of a millisecond each, in ticks of either clock: a tick is
/// 0.1 % of it at the PM timer and 0.3 % at the PIT.
const MEASUREMENTS: usize = 4;
const PM_TIMER_TICKS: u32 = (PM_TIMER_HZ / 4000) as u32;
const PIT_TICKS: u16 = (PIT_HZ / 4000) as u16;
/// How often we look at a clock before we believe that it stands still.
const PATIENCE: u32 = 10_000_000;
/// The same for the PIT, where a look takes three accesses.
const PIT_PATIENCE: u32 = 1_000_000;

const PIT_CONTROL: u16 = 0x43;
const PIT_CHANNEL_0: u16 = 0x40;

const RTC_INDEX: u16 = 0x70;
const RTC_DATA: u16 = 0x71;

/// What boot knows about time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Ticks of the time stamp counter in a second.
    pub(crate) tsc_hz: u64,
    /// Timer ticks in 2^32 ticks of the time stamp counter.
    pub(crate) timer_rate: u64,
    /// The time stamp counter when the wall clock was read.
    pub(crate) wall_tsc: u64,
    /// The wall clock, in seconds since 1970-01-01 UTC.
    pub(crate) wall_unix_s: u64,
    /// Where the wall clock came from.
    pub(crate) wall_source: ClockSource,
}

/// Measures the time stamp counter and the APIC timer, and reads the wall clock.
pub(crate) fn calibrate(
    firmware: &Firmware,
    machine: &Machine,
    image: &Image,
) -> Result<Clock, Refusal> {
    // A host that takes the CPU away between two readings makes a measured rate too high, never too
    // low, since the counter is read before and after the reference: so the lowest is the best.
    let mut best = measure(firmware, machine)?;
    for _ in 1..MEASUREMENTS {
        let again = measure(firmware, machine)?;
        if again.tsc_hz < best.tsc_hz {
            best = again;
        }
    }
    machine.apic.leave_one_shot();
    let (wall_unix_s, wall_source) = wall_clock(firmware, image.configuration().build_unix_s);
    Ok(Clock {
        tsc_hz: stated_hz().unwrap_or(best.tsc_hz),
        timer_rate: best.timer_rate,
        wall_tsc: tsc(),
        wall_unix_s,
        wall_source,
    })
}

/// One measurement.
struct Measured {
    tsc_hz: u64,
    timer_rate: u64,
}

fn measure(firmware: &Firmware, machine: &Machine) -> Result<Measured, Refusal> {
    machine.apic.start_counting();
    let start = tsc();
    // Reference ticks that passed, and how many of them make a second.
    let (ticks, rate) = match firmware.acpi.pm_timer {
        Some(port) => (wait_pm_timer(port)?, PM_TIMER_HZ),
        None => (wait_pit()?, PIT_HZ),
    };
    let tsc_ticks = tsc().wrapping_sub(start);
    let timer_ticks = u64::from(machine.apic.counted());
    if ticks == 0 || tsc_ticks == 0 || timer_ticks == 0 {
        return Err(Refusal::ClockSource);
    }
    Ok(Measured {
        tsc_hz: (u128::from(tsc_ticks) * u128::from(rate) / u128::from(ticks)) as u64,
        timer_rate: ((u128::from(timer_ticks) << 32) / u128::from(tsc_ticks)) as u64,
    })
}

/// The rate that the CPU or the hypervisor states, in ticks a second.
fn stated_hz() -> Option<u64> {
    // Leaf 0x15: crystal clock * numerator / denominator (SDM 2A, "CPUID").
    let [denominator, numerator, crystal, _] = cpu::leaf(0x15, 0);
    let product = u64::from(crystal) * u64::from(numerator);
    let stated = product.checked_div(u64::from(denominator)).filter(|hz| *hz > 0);
    // Leaf 0x40000010: kHz, as VMware defined it and KVM took it over.
    let [khz, ..] = if cpu::hypervisor().is_some() { cpu::leaf(0x4000_0010, 0) } else { [0; 4] };
    stated.or(Some(u64::from(khz) * 1000).filter(|hz| *hz > 0))
}

fn wait_pm_timer(timer: u16) -> Result<u64, Refusal> {
    let start = port::read_u32(timer);
    for _ in 0..PATIENCE {
        // The counter has 24 bits at least; a quarter of a millisecond is far less than one turn.
        let passed = port::read_u32(timer).wrapping_sub(start) & 0x00ff_ffff;
        if passed >= PM_TIMER_TICKS {
            return Ok(u64::from(passed));
        }
    }
    Err(Refusal::ClockSource)
}

/// Counts channel 0 of the PIT down. Channel 2 would need a port that not every board with a PIT has;
/// channel 0's interrupt is masked, and its output goes nowhere else (Intel 8254 data sheet).
fn wait_pit() -> Result<u64, Refusal> {
    // Both bytes, mode 0: counts down from here and wraps.
    port::write_u8(PIT_CONTROL, 0b0011_0000);
    port::write_u8(PIT_CHANNEL_0, 0xff);
    port::write_u8(PIT_CHANNEL_0, 0xff);
    for _ in 0..PIT_PATIENCE {
        // The latch holds the count until both bytes are read.
        port::write_u8(PIT_CONTROL, 0);
        let count = [port::read_u8(PIT_CHANNEL_0), port::read_u8(PIT_CHANNEL_0)];
        // Without a PIT all ones are read: nothing has passed.
        let passed = u16::MAX - u16::from_le_bytes(count);
        if passed >= PIT_TICKS {
            return Ok(u64::from(passed));
        }
    }
    Err(Refusal::ClockSource)
}

fn wall_clock(firmware: &Firmware, build_unix_s: u64) -> (u64, ClockSource) {
    // A clock that runs before the image was built is wrong; time does not go back.
    let is_right = |now: &u64| *now >= build_unix_s;
    if let Some(now) = super::kvmclock::read().filter(is_right) {
        return (now, ClockSource::Kvmclock);
    }
    match read_rtc(firmware.acpi.century).filter(is_right) {
        Some(now) => (now, ClockSource::Rtc),
        None => (build_unix_s, ClockSource::BuildDate),
    }
}

fn rtc(index: u8) -> u8 {
    port::write_u8(RTC_INDEX, index);
    port::read_u8(RTC_DATA)
}

/// The RTC's time, read until two readings agree (MC146818 data sheet).
fn read_rtc(century: Option<u8>) -> Option<u64> {
    const UPDATE_IN_PROGRESS: u8 = 0x80;
    const TRIES: u32 = 100_000;
    let read = || {
        let is_still = (0..TRIES).any(|_| rtc(10) & UPDATE_IN_PROGRESS == 0);
        is_still.then(|| [rtc(0), rtc(2), rtc(4), rtc(7), rtc(8), rtc(9), century.map_or(0, rtc)])
    };
    let mut last = read()?;
    for _ in 0..4 {
        let again = read()?;
        if again == last {
            return decode(last, rtc(11), century.is_some());
        }
        last = again;
    }
    None
}

fn decode(fields: [u8; 7], format: u8, has_century: bool) -> Option<u64> {
    let is_binary = format & 4 != 0;
    let is_24_hours = format & 2 != 0;
    let number = |value: u8| match is_binary {
        true => u64::from(value),
        false => u64::from(value >> 4) * 10 + u64::from(value & 15),
    };
    let [second, minute, hour, day, month, year, century] = fields;
    let mut hours = number(hour & 0x7f);
    if !is_24_hours {
        hours = hours % 12 + if hour & 0x80 != 0 { 12 } else { 0 };
    }
    let century = if has_century { number(century) } else { 20 };
    let year = century * 100 + number(year);
    let (month, day) = (number(month), number(day));
    if !(1970..=2999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days_before(year, month, day);
    Some(((days * 24 + hours) * 60 + number(minute)) * 60 + number(second))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    // Counted from March, so that the leap day is a year's last.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year / 4 - year / 100 + year / 400;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}
