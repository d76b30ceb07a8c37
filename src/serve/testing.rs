//! What the tests of this room share: sites, requests, and file threads without a runtime.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::CString;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{FileThreads, JobError};
use crate::config::{Config, Files, Site};
use crate::message::{Method, Request, Response};

/// A site with these names that serves `root`.
pub(crate) fn site(root: impl AsRef<Path>, names: &[&str]) -> Site {
    Site {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        certificate_file: "/unused.pem".into(),
        key_file: "/unused.key".into(),
        tls: Default::default(),
        hsts: None,
        files: Files {
            index: vec!["index.html".into(), "index.txt".into()],
            ..Files::new(root.as_ref().to_owned())
        },
        routes: Vec::new(),
        tunnel: None,
        access: Default::default(),
        access_log: Default::default(),
        rate_limit: None,
    }
}

/// A configuration with these sites.
pub(crate) fn config(sites: Vec<Site>, default_site: Option<usize>) -> Config {
    Config {
        workers: None,
        listeners: Vec::new(),
        sites: sites.into_iter().map(Arc::new).collect(),
        default_site,
        passthroughs: Vec::new(),
        default_passthrough: None,
        upstreams: Vec::new(),
        proxies: Default::default(),
        rate_limit: None,
        offload: Default::default(),
        timeouts: Default::default(),
        limits: Default::default(),
        tcp: Default::default(),
        session: Default::default(),
        admin: None,
        http2: Default::default(),
        access_log: None,
        request_id: Default::default(),
    }
}

/// A request without a body.
pub(crate) fn request(
    method: Method,
    host: &str,
    target: &str,
    fields: &[(&str, &str)],
) -> Request {
    Request {
        host: host.into(),
        target: target.into(),
        ..crate::proto::testing::request(method, fields)
    }
}

/// The value of the response's field `name`, which appears at most once.
pub(crate) fn field(response: &Response, name: &str) -> Option<String> {
    let mut values = response.all_fields().filter(|(field, _)| *field == name);
    let value = values.next()?.1.to_vec();
    assert!(values.next().is_none(), "{name} twice in {response:?}");
    Some(String::from_utf8(value).unwrap())
}

pub(crate) fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).unwrap()
}

/// The value of a future that waits for nothing.
pub(crate) fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future waits"),
    }
}

/// File threads in a test's hands: jobs run at once, or when the test says, or are refused.
#[derive(Clone, Default)]
pub(crate) struct ManualThreads(Rc<ManualState>);

#[derive(Default)]
struct ManualState {
    mode: Cell<Mode>,
    jobs_run: Cell<usize>,
    queue: RefCell<VecDeque<Box<dyn FnOnce()>>>,
}

/// What [`ManualThreads`] do with a job.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    RunAtOnce,
    Queue,
    Refuse,
    Panic,
}

impl ManualThreads {
    pub(crate) fn set(&self, mode: Mode) {
        self.0.mode.set(mode);
    }

    /// How many jobs have run.
    pub(crate) fn jobs_run(&self) -> usize {
        self.0.jobs_run.get()
    }

    /// How many jobs wait.
    pub(crate) fn jobs_queued(&self) -> usize {
        self.0.queue.borrow().len()
    }

    /// Runs all jobs that wait, and wakes who waits for them.
    pub(crate) fn run_queued(&self) {
        loop {
            let Some(job) = self.0.queue.borrow_mut().pop_front() else {
                return;
            };
            job();
        }
    }
}

impl FileThreads for ManualThreads {
    async fn run<T: Send + 'static>(
        &self,
        _device: u64,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let state = Rc::clone(&self.0);
        let counted = move || {
            state.jobs_run.set(state.jobs_run.get() + 1);
            job()
        };
        match self.0.mode.get() {
            Mode::RunAtOnce => Ok(counted()),
            Mode::Refuse => Err(JobError::Overloaded),
            Mode::Panic => Err(JobError::Panicked),
            Mode::Queue => {
                let slot = Rc::new(RefCell::new((None, Waker::noop().clone())));
                let filled = Rc::clone(&slot);
                self.0.queue.borrow_mut().push_back(Box::new(move || {
                    let value = counted();
                    let mut slot = filled.borrow_mut();
                    slot.0 = Some(value);
                    slot.1.wake_by_ref();
                }));
                std::future::poll_fn(move |context| {
                    let mut slot = slot.borrow_mut();
                    slot.1 = context.waker().clone();
                    slot.0
                        .take()
                        .map_or(Poll::Pending, |value| Poll::Ready(Ok(value)))
                })
                .await
            }
        }
    }
}
