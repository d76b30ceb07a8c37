//! From a request to what answers it: the route of a path, and an open file that is known already.

use std::ffi::CString;
use std::fs;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use portcullis::config::{self, FieldEdits, Route, RouteAction, RoutePath, Symlinks};
use portcullis::message::{Body, Now, RequestBody, Status};
use portcullis::net::file_threads::JobError;
use portcullis::proto::h1::parse::{Bounds, HeadParser};
use portcullis::serve::cache::{Cache, Found, Root};
use portcullis::serve::rules::{Rules, normalize};
use portcullis::serve::{Client, FileThreads, Routes, Serve};

use crate::part::{CONFIGURATION, Part, Work, repeated};

pub(crate) fn parts() -> Vec<Part> {
    let mut parts = Vec::new();
    for routes in [1, 10, 1000] {
        parts.push(Part::new(
            format!("routes/match/{routes}"),
            1000,
            move || match_route(routes),
        ));
    }
    parts.push(Part::new("files/cache_hit", 1000, cache_hit));
    parts.push(Part::new("files/respond/1k", 1000, || respond(1024)));
    parts.push(Part::new("files/respond/1m", 1000, || respond(1 << 20)));
    parts
}

/// A path below the last of so many prefixes, so that all have been looked at.
fn match_route(routes: usize) -> Work {
    let of_prefix = |index: usize| Route {
        path: RoutePath::Prefix(format!("/service-{index:04}/")),
        action: RouteAction::Fixed {
            status: 200,
            body: None,
        },
        request_fields: FieldEdits::default(),
        response_fields: FieldEdits::default(),
    };
    let routes: Vec<Route> = (0..routes).map(of_prefix).collect();
    let rules = Rules::new(&routes, |_| 0);
    let path = format!("/service-{:04}/users/17", routes.len() - 1);
    repeated(move || normalize(&path).is_ok_and(|normal| rules.find(&normal).is_some()))
}

fn cache_hit() -> Work {
    let directory = tempfile::tempdir().unwrap();
    write_files(directory.path());
    let root = Root {
        path: Arc::from(CString::new(directory.path().as_os_str().as_bytes()).unwrap()),
        symlinks: Symlinks::default(),
        dotfiles: false,
        headers: [].into(),
        is_remote: false,
        device: 0,
    };
    let cache = Cache::new(vec![root], 1024, AtOnce);
    let path = CString::new("file-1024.bin").unwrap();
    let now = Now::read();
    drop(ready(cache.find(0, &path, now)));
    fs::remove_dir_all(directory.path()).unwrap();
    repeated(move || {
        matches!(
            cache.find_known(0, path.to_bytes(), now),
            Some(Ok(Found::File(_)))
        )
    })
}

/// All of a request for a file that is known, from its parsed head to the response's value.
fn respond(bytes: usize) -> Work {
    let directory = tempfile::tempdir().unwrap();
    write_files(directory.path());
    let text = CONFIGURATION.as_bytes();
    let loaded = config::parse(text, Path::new("bench.toml"), directory.path()).unwrap();
    let routes = Routes::new(Arc::new(loaded.config), &[0]).unwrap();
    let serve = Serve::new(Arc::new(routes), AtOnce);
    let client = Client {
        tls_policy: Some(0),
        address: [192, 0, 2, 1].into(),
        introduction: None,
    };
    let head = format!("GET /file-{bytes}.bin HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let bounds = Bounds {
        header_bytes_max: 32 * 1024,
        target_bytes_max: 8 * 1024,
    };
    let head = HeadParser::default().parse(&mut BytesMut::from(head.as_bytes()), &bounds);
    let request = head.unwrap().unwrap().request;
    let now = Now::read();
    let body = RequestBody::Empty;
    drop(ready(serve.respond(&client, &request, body, now)));
    let answer = move || {
        let response = serve.respond_known(&client, &request, now);
        response.is_some_and(|response| {
            response.status == Status(200) && !matches!(response.body, Body::Empty)
        })
    };
    assert!(answer(), "the file is not served");
    // What is answered from here on was known before.
    fs::remove_dir_all(directory.path()).unwrap();
    repeated(answer)
}

fn write_files(directory: &Path) {
    for bytes in [1024, 1 << 20] {
        fs::write(directory.join(format!("file-{bytes}.bin")), vec![7; bytes]).unwrap();
    }
}

/// File threads that do everything at once: nothing that is measured needs them.
struct AtOnce;

impl FileThreads for AtOnce {
    async fn run<T: Send + 'static>(
        &self,
        _device: u64,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobError> {
        Ok(job())
    }
}

/// The value of a future that waits for nothing.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future waits"),
    }
}
