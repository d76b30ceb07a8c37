//! From a request to a response.
//!
//! [`Serve`] picks the site by the request's host and lets it respond; [`redirect::Redirect`] is
//! what a plain-HTTP listener has instead. Both return values: what version of HTTP frames a
//! response, and how its bytes are moved, is decided below and above.

mod bounded_map;
pub mod cache;
mod coded;
pub mod content_type;
mod describe;
pub mod error_page;
pub mod file;
mod flight;
mod listing;
mod open;
pub mod path;
pub mod redirect;
pub mod tunnel;

use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use self::cache::{Cache, Root};
use crate::config::{Config, Hsts, Site};
use crate::message::{Request, RequestBody, Response, Status};
use crate::net::file_threads::{FileThreadsHandle, JobError};
use crate::tls::names::Names;

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For ages and deadlines.
    pub monotonic: Instant,
    /// For dates.
    pub wall: SystemTime,
}

impl Now {
    /// This moment.
    pub fn read() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

/// What is known of the connection that carries a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The index of the TLS policy under which its handshake was done
    /// ([`crate::tls::server_config::TlsSetup::policy_for`]); `None` for plain HTTP.
    pub tls_policy: Option<usize>,
}

/// What all workers share: the sites of one configuration.
#[derive(Debug)]
pub struct Routes {
    config: Arc<Config>,
    names: Names,
    sites: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    site: Arc<Site>,
    root: Root,
    tls_policy: usize,
    /// The value of Strict-Transport-Security.
    hsts: Option<Bytes>,
}

/// Responds to requests, with the files one worker holds open.
pub struct Serve<T = FileThreadsHandle> {
    routes: Arc<Routes>,
    cache: Cache<T>,
}

/// Threads for work that waits for disks.
pub trait FileThreads {
    /// Runs `job` on another thread. The first poll of the future queues it; dropping the future
    /// after that leaves the job running, and its value is dropped on that thread or later.
    ///
    /// # Errors
    ///
    /// [`JobError::Overloaded`] when too many jobs wait: this one is dropped. [`JobError::Panicked`]
    /// when it panicked.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, JobError>>;
}

impl FileThreads for FileThreadsHandle {
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, JobError>> {
        FileThreadsHandle::run(self, job)
    }
}

impl Routes {
    /// The routes of `config`. `tls_policies` has, for each site, the index of its TLS policy
    /// ([`crate::tls::server_config::TlsSetup::site_policies`]); sites with the same one may be
    /// reached over each other's connections.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when a root's path holds a NUL, or a site has no TLS policy.
    pub fn new(config: Arc<Config>, tls_policies: &[usize]) -> io::Result<Self> {
        if tls_policies.len() != config.sites.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sites = config
            .sites
            .iter()
            .zip(tls_policies)
            .map(|(site, &tls_policy)| {
                let root = CString::new(site.files.root.as_os_str().as_bytes())?;
                Ok(Route {
                    site: Arc::clone(site),
                    root: Root {
                        path: root.into(),
                        symlinks: site.files.symlinks,
                        dotfiles: site.files.dotfiles,
                        headers: Arc::clone(&site.files.headers),
                    },
                    tls_policy,
                    hsts: site.hsts.map(hsts_value),
                })
            })
            .collect::<io::Result<_>>()?;
        let names = config.sites.iter().map(|site| site.names.as_slice());
        Ok(Self {
            names: Names::new(names, config.default_site),
            config,
            sites,
        })
    }

    /// The site for `host`: by name, by wildcard, or the default.
    fn site(&self, host: &str) -> Option<(usize, &Route)> {
        let index = self.names.site(Some(host))?;
        Some((index, self.sites.get(index)?))
    }
}

impl<T: FileThreads> Serve<T> {
    /// Responds by `routes`, with nothing cached yet. Cold files are read on `threads`.
    pub fn new(routes: Arc<Routes>, threads: T) -> Self {
        let roots = routes.sites.iter().map(|route| route.root.clone());
        let open_files_max = routes.config.limits.open_files_per_worker_max;
        Self {
            cache: Cache::new(roots.collect(), open_files_max, threads),
            routes,
        }
    }

    /// Gives up files that nobody asks for: see [`Cache::sweep`].
    pub fn sweep(&self, now: Instant) {
        self.cache.sweep(now);
    }

    /// The response to `request`. Files take no request body: `body` goes back to the driver, which
    /// has to bound and drain it.
    ///
    /// A host that no site has, without a default site, is misdirected (421, RFC 9110 7.4) on a TLS
    /// connection, whose certificate was for another name; over plain HTTP it is not found (404). So
    /// is a host whose connections go through a tunnel, and, on TLS, one whose site demands another TLS policy than the one the handshake was done
    /// under (421, RFC 9110 15.5.20): its versions, suites or groups might not allow this connection.
    pub async fn respond(
        &self,
        client: &Client,
        request: &Request,
        _body: RequestBody,
        now: Now,
    ) -> Response {
        let Some((index, route)) = self.routes.site(&request.host) else {
            let status = if client.tls_policy.is_some() {
                421
            } else {
                404
            };
            return error_page::page(Status(status));
        };
        let is_other_policy = |policy| policy != route.tls_policy;
        if route.site.tunnel.is_some() || client.tls_policy.is_some_and(is_other_policy) {
            return error_page::page(Status(421));
        }
        let site = file::FileSite {
            cache: &self.cache,
            index,
            files: &route.site.files,
        };
        let response = site.respond(request, now).await;
        match &route.hsts {
            // RFC 6797 7.2: only over a secure transport.
            Some(value) if client.tls_policy.is_some() => {
                response.with("strict-transport-security", value.clone())
            }
            _ => response,
        }
    }
}

/// RFC 6797 6.1
fn hsts_value(hsts: Hsts) -> Bytes {
    let mut value = format!("max-age={}", hsts.max_age_s);
    if hsts.include_subdomains {
        value.push_str("; includeSubDomains");
    }
    if hsts.preload {
        value.push_str("; preload");
    }
    value.into()
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests;
