//! Connections that change their protocol.

use super::*;

/// Sends back what it is sent, and ends when its client does.
pub(super) struct Echo;

#[derive(Default)]
struct Shared {
    chunks: RefCell<VecDeque<Bytes>>,
    has_ended: Cell<bool>,
}

struct Half(Rc<Shared>);

impl Upgrade for Echo {
    fn into_halves(self: Box<Self>) -> (Box<dyn BodyStream>, Box<dyn BodySink>) {
        let shared = Rc::new(Shared::default());
        (Box::new(Half(shared.clone())), Box::new(Half(shared)))
    }

    fn idle_max(&self) -> Duration {
        Duration::from_secs(60)
    }
}

impl BodyStream for Half {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(std::future::poll_fn(|_| {
            let next = self.0.chunks.borrow_mut().pop_front();
            match next {
                None if !self.0.has_ended.get() => Poll::Pending,
                next => Poll::Ready(Ok(next)),
            }
        }))
    }
}

impl BodySink for Half {
    fn send(&mut self, data: Bytes) -> LocalFuture<'_, Result<(), Error>> {
        self.0.chunks.borrow_mut().push_back(data);
        Box::pin(std::future::ready(Ok(())))
    }

    fn finish(&mut self) -> LocalFuture<'_, Result<(), Error>> {
        self.0.has_ended.set(true);
        Box::pin(std::future::ready(Ok(())))
    }
}

const UPGRADE: &str =
    "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

#[test]
fn an_upgraded_connection_holds_no_buffer_while_it_is_idle() {
    let ended = ended([data(UPGRADE), data("some bytes"), data("and more")]);
    assert_eq!(ended.outcome(), Outcome::Closed);
    assert!(ended.sent().ends_with("\r\n\r\nsome bytesand more"));
    assert_eq!(ended.script.idle_capacity_max, 0);
}

#[test]
fn only_a_complete_upgraded_connection_looks_like_one() {
    let orderly = ended([data(UPGRADE), data("x"), Close(Closure::Orderly)]);
    assert_eq!(orderly.outcome(), Outcome::Closed);
    assert!(orderly.script.finished && !orderly.script.aborted);
    let silent = ended([data(UPGRADE), data("x"), Silence(Phase::Tunnel)]);
    assert_eq!(silent.outcome(), Outcome::IdleTimeout);
    assert!(silent.script.aborted && !silent.script.finished);
    for end in [Close(Closure::WithoutNotify), Reset] {
        let broken = ended([data(UPGRADE), data("x"), end]);
        assert_eq!(broken.result.as_ref().unwrap_err().side, Side::Client);
        assert!(broken.script.aborted && !broken.script.finished);
    }
}
