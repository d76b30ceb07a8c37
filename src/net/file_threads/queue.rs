//! What waits for the file threads: by device, so that one that hangs takes no more than its share.
//!
//! Devices with jobs that may run are in turn, and the device at the front gives one job. A device is
//! in turn, once, exactly as long as it has a job that waits and fewer than its share that run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::JobError;
use crate::limits::{
    FILE_JOBS_WAITING_MAX, FILE_JOBS_WAITING_PER_DEVICE_MAX, FILE_THREADS_PER_DEVICE_MAX,
};
use crate::metrics::{self, Counter};

/// What a file thread runs. A job that the queue refuses, or that waits in it when it closes, is
/// dropped.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The jobs of all workers, and the threads that wait for them.
#[derive(Default)]
pub(super) struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    /// Those with a job that waits or runs.
    devices: HashMap<u64, Device>,
    turn: VecDeque<u64>,
    waiting: usize,
    is_closed: bool,
}

#[derive(Default)]
struct Device {
    waiting: VecDeque<Job>,
    running: usize,
}

impl Queue {
    /// Adds a job for `device`.
    ///
    /// # Errors
    /// [`JobError::Overloaded`] when too many jobs wait, in all or for that device, or nobody takes
    /// any.
    pub(super) fn push(&self, device: u64, job: Job) -> Result<(), JobError> {
        self.lock().push(device, job)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Runs jobs until the queue is closed.
    pub(super) fn run_jobs(&self) {
        let mut jobs = self.lock();
        while !jobs.is_closed {
            let Some((device, job)) = jobs.take() else {
                let waited = self.changed.wait(jobs);
                jobs = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(jobs);
            // The panic hook has reported it; the waiting task learns it from the missing result.
            drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
            jobs = self.lock();
            // The others wait because there is nothing, or nothing but jobs of a device that had its
            // share: this thread takes what has become free.
            jobs.finish(device);
        }
    }

    /// Ends the threads as they become idle, and refuses jobs from here on.
    pub(super) fn close(&self) {
        let mut jobs = self.lock();
        jobs.is_closed = true;
        let dropped = std::mem::take(&mut jobs.devices);
        drop(jobs);
        // A job tells its owner when it is dropped: not under the lock.
        drop(dropped);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jobs {
    fn push(&mut self, number: u64, job: Job) -> Result<(), JobError> {
        if self.is_closed || self.waiting >= FILE_JOBS_WAITING_MAX {
            return Err(JobError::Overloaded);
        }
        let device = self.devices.entry(number).or_default();
        if device.waiting.len() >= FILE_JOBS_WAITING_PER_DEVICE_MAX {
            metrics::count(Counter::FileThreadsShareFull);
            return Err(JobError::Overloaded);
        }
        if device.waiting.is_empty() && device.running < FILE_THREADS_PER_DEVICE_MAX {
            self.turn.push_back(number);
        }
        device.waiting.push_back(job);
        self.waiting += 1;
        Ok(())
    }

    /// The next job that may run, and its device.
    fn take(&mut self) -> Option<(u64, Job)> {
        let number = self.turn.pop_front()?;
        let device = self.devices.get_mut(&number)?;
        let job = device.waiting.pop_front()?;
        device.running += 1;
        self.waiting -= 1;
        if !device.waiting.is_empty() && device.running < FILE_THREADS_PER_DEVICE_MAX {
            self.turn.push_back(number);
        }
        Some((number, job))
    }

    /// A job of that device is over.
    fn finish(&mut self, number: u64) {
        let Some(device) = self.devices.get_mut(&number) else {
            // The queue was closed meanwhile.
            return;
        };
        let had_its_share = device.running == FILE_THREADS_PER_DEVICE_MAX;
        device.running -= 1;
        if had_its_share && !device.waiting.is_empty() {
            self.turn.push_back(number);
        }
        if device.running == 0 && device.waiting.is_empty() {
            self.devices.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: usize = FILE_THREADS_PER_DEVICE_MAX;

    fn push(jobs: &mut Jobs, device: u64) -> Result<(), JobError> {
        let outcome = jobs.push(device, Box::new(|| ()));
        check_invariants(jobs);
        outcome
    }

    fn take(jobs: &mut Jobs) -> Option<u64> {
        let taken = jobs.take().map(|(device, _)| device);
        check_invariants(jobs);
        taken
    }

    fn finish(jobs: &mut Jobs, device: u64) {
        jobs.finish(device);
        check_invariants(jobs);
    }

    fn check_invariants(jobs: &Jobs) {
        let waiting: usize = jobs.devices.values().map(|one| one.waiting.len()).sum();
        assert_eq!(jobs.waiting, waiting);
        for (number, device) in &jobs.devices {
            assert!(device.running <= SHARE);
            assert!(device.running > 0 || !device.waiting.is_empty());
            let may_run = device.running < SHARE && !device.waiting.is_empty();
            let in_turn = jobs.turn.iter().filter(|other| *other == number);
            assert_eq!(in_turn.count(), usize::from(may_run));
        }
        assert!(
            jobs.turn
                .iter()
                .all(|number| jobs.devices.contains_key(number))
        );
    }

    #[test]
    fn a_device_runs_no_more_than_its_share() {
        let mut jobs = Jobs::default();
        for _ in 0..SHARE + 2 {
            push(&mut jobs, 1).unwrap();
        }
        for _ in 0..SHARE {
            assert_eq!(take(&mut jobs), Some(1));
        }
        assert_eq!(take(&mut jobs), None);
        push(&mut jobs, 2).unwrap();
        assert_eq!(take(&mut jobs), Some(2));
        finish(&mut jobs, 2);
        assert_eq!(take(&mut jobs), None);
        // What ends lets the next begin.
        finish(&mut jobs, 1);
        assert_eq!(take(&mut jobs), Some(1));
        assert_eq!(take(&mut jobs), None);
        for _ in 0..2 {
            finish(&mut jobs, 1);
        }
        assert_eq!(take(&mut jobs), Some(1));
        for _ in 0..SHARE - 1 {
            finish(&mut jobs, 1);
        }
        assert!(jobs.devices.is_empty() && jobs.turn.is_empty());
    }

    #[test]
    fn devices_take_turns() {
        let mut jobs = Jobs::default();
        for device in [1, 1, 1, 2, 2, 3] {
            push(&mut jobs, device).unwrap();
        }
        let taken: Vec<_> = std::iter::from_fn(|| take(&mut jobs)).collect();
        assert_eq!(taken, [1, 2, 3, 1, 2, 1]);
    }

    #[test]
    fn a_device_fills_no_more_than_its_share_of_the_queue() {
        let mut jobs = Jobs::default();
        let count = || metrics::of_this_thread(Counter::FileThreadsShareFull);
        let before = count();
        for _ in 0..FILE_JOBS_WAITING_PER_DEVICE_MAX {
            push(&mut jobs, 1).unwrap();
        }
        assert_eq!(push(&mut jobs, 1), Err(JobError::Overloaded));
        assert_eq!(count() - before, 1);
        // Others still have room, up to what all may have together.
        for number in 0..FILE_JOBS_WAITING_MAX - FILE_JOBS_WAITING_PER_DEVICE_MAX {
            push(&mut jobs, 2 + number as u64).unwrap();
        }
        assert_eq!(push(&mut jobs, 1_000_000), Err(JobError::Overloaded));
        assert_eq!(count() - before, 1);
        assert_eq!(take(&mut jobs), Some(1));
        push(&mut jobs, 1).unwrap();
    }

    #[test]
    fn a_closed_queue_drops_what_waits_and_takes_nothing() {
        let queue = Queue::default();
        let owner = std::sync::Arc::new(());
        let held = owner.clone();
        queue.push(1, Box::new(move || drop(held))).unwrap();
        queue.close();
        assert_eq!(std::sync::Arc::strong_count(&owner), 1);
        assert_eq!(queue.push(1, Box::new(|| ())), Err(JobError::Overloaded));
        // Nothing to wait for.
        queue.run_jobs();
    }
}
