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
pub mod proxy;
pub mod rate;
pub mod redirect;
mod refusal;
pub mod rules;
pub mod tunnel;

use std::borrow::Cow;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use self::cache::{Cache, Root};
use self::proxy::Proxy;
use self::rate::Rates;
use self::refusal::{admits, refusal};
use self::rules::{Rule, Rules};
use crate::config::{Config, Files, Hsts, Route, RouteAction, RouteFiles, Site};
use crate::message::{Body, Now, Request, RequestBody, Response, Status};
use crate::net::file_threads::{FileThreadsHandle, JobError};
use crate::proto::host_names::HostNames;
use crate::proto::proxy_header::ProxyHeader;
use crate::proto::request_id;
use crate::sys;

/// What is known of the connection that carries a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The index of the TLS policy under which its handshake was done
    /// ([`crate::tls::server_config::TlsSetup::policy_for`]); `None` for plain HTTP.
    pub tls_policy: Option<usize>,
    /// Its address.
    pub address: IpAddr,
    /// What servers behind this one are told of the connection, where one is told (the PROXY
    /// protocol).
    pub introduction: Option<Rc<ProxyHeader>>,
}

/// Who sent a request, and what it is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The client's address, or the one that a trusted proxy told.
    pub address: IpAddr,
    /// The request's id.
    pub id: Cow<'a, str>,
}

/// What all workers share: the sites of one configuration.
#[derive(Debug)]
pub struct Routes {
    config: Arc<Config>,
    names: HostNames,
    sites: Vec<SiteRoute>,
    /// The directories of all sites and, after them, those of their routes.
    roots: Vec<Root>,
}

#[derive(Debug)]
struct SiteRoute {
    site: Arc<Site>,
    rules: Rules,
    tls_policy: usize,
    /// The value of Strict-Transport-Security.
    hsts: Option<Bytes>,
}

/// Responds to requests, with the files one worker holds open.
pub struct Serve<T = FileThreadsHandle> {
    routes: Arc<Routes>,
    cache: Cache<T>,
    proxy: Option<Proxy>,
    rates: Arc<Rates>,
}

/// Threads for work that waits for disks.
pub trait FileThreads {
    /// Runs `job`, which may wait for the file system on `device`, on another thread. The first poll
    /// of the future queues it; dropping the future after that leaves the job running, and its value
    /// is dropped on that thread or later.
    ///
    /// # Errors
    ///
    /// [`JobError::Overloaded`] when too many jobs wait, in all or for that device: this one is
    /// dropped. [`JobError::Panicked`] when it panicked.
    fn run<T: Send + 'static>(
        &self,
        device: u64,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, JobError>>;
}

impl FileThreads for FileThreadsHandle {
    fn run<T: Send + 'static>(
        &self,
        device: u64,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, JobError>> {
        FileThreadsHandle::run(self, device, job)
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
        let mut directories: Vec<&Files> = config.sites.iter().map(|site| &site.files).collect();
        let mut sites = Vec::with_capacity(config.sites.len());
        for (site, &tls_policy) in config.sites.iter().zip(tls_policies) {
            let first = directories.len();
            directories.extend(site.routes.iter().filter_map(Route::files));
            let mut next = first..;
            let rules = Rules::new(&site.routes, |_| next.next().unwrap_or(first));
            sites.push(SiteRoute {
                site: Arc::clone(site),
                rules,
                tls_policy,
                hsts: site.hsts.map(hsts_value),
            });
        }
        let roots = directories
            .into_iter()
            .map(root_of)
            .collect::<io::Result<_>>()?;
        let names = config.sites.iter().map(|site| site.names.as_slice());
        Ok(Self {
            names: HostNames::new(names, config.default_site),
            config,
            sites,
            roots,
        })
    }

    /// The site for `host`: by name, by wildcard, or the default.
    fn site(&self, host: &str) -> Option<(usize, &SiteRoute)> {
        let index = self.names.site(Some(host))?;
        Some((index, self.sites.get(index)?))
    }
}

impl<T: FileThreads> Serve<T> {
    /// Responds by `routes`, with nothing cached yet. Cold files are read on `threads`.
    pub fn new(routes: Arc<Routes>, threads: T) -> Self {
        let open_files_max = routes.config.limits.open_files_per_worker_max;
        Self {
            cache: Cache::new(routes.roots.clone(), open_files_max, threads),
            routes,
            proxy: None,
            rates: Arc::default(),
        }
    }

    /// The same, with the buckets of `rates`, which others may share.
    #[must_use]
    pub fn with_rates(mut self, rates: Arc<Rates>) -> Self {
        self.rates = rates;
        self
    }

    /// The same, with `proxy` to pass requests on.
    #[must_use]
    pub fn with_proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Gives up files that nobody asks for and connections that are not to be used again: see
    /// [`Cache::sweep`] and [`Proxy::sweep`].
    pub fn sweep(&self, now: Instant) {
        self.cache.sweep(now);
        if let Some(proxy) = &self.proxy {
            proxy.sweep(now);
        }
    }

    /// The index in [`Config::sites`] of the site that `request` is for.
    pub fn site(&self, request: &Request) -> Option<usize> {
        self.routes.site(&request.host).map(|(index, _)| index)
    }

    /// Who sent `request` over a connection of `client`, and what it is known by.
    pub fn identify<'r>(&self, client: &Client, request: &'r Request) -> Identity<'r> {
        let config = &self.routes.config;
        let is_trusted = config.proxies.trusts(client.address);
        Identity {
            address: config.proxies.client(client.address, &request.fields),
            id: request_id::of(request, config.request_id.field, is_trusted),
        }
    }

    /// The response to `request`. Files take no request body: `body` goes back to the driver, which
    /// has to bound and drain it.
    ///
    /// A host that no site has, without a default site, is misdirected (421, RFC 9110 7.4) on a TLS
    /// connection, whose certificate was for another name; over plain HTTP it is not found (404). So
    /// is a host whose connections go through a tunnel, and, on TLS, one whose site demands another
    /// TLS policy than the one the handshake was done under (421, RFC 9110 15.5.20): its versions,
    /// suites or groups might not allow this connection.
    pub async fn respond(
        &self,
        client: &Client,
        request: &Request,
        body: RequestBody,
        now: Now,
    ) -> Response {
        let (index, route) = match self.site_for(client, request) {
            Ok(found) => found,
            Err(status) => return error_page::page(status),
        };
        let config = &self.routes.config;
        let address = config.proxies.client(client.address, &request.fields);
        let refusal = refusal(config, &route.site, &self.rates, address, now.monotonic);
        let mut response = match refusal {
            Some(refusal) => {
                drop(body);
                let site = self.file_site(index, &route.site.files);
                site.with_own_page(refusal, now).await
            }
            None => {
                self.of_site(client, (index, route), request, body, now)
                    .await
            }
        };
        self.complete(&mut response, client, route, request);
        response
    }

    /// As [`Serve::respond`], for files that no route covers and that the cache knows; `None` for all
    /// else. Most requests for files cost no future that way.
    pub fn respond_known(&self, client: &Client, request: &Request, now: Now) -> Option<Response> {
        let (index, route) = self.site_for(client, request).ok()?;
        let mut response = self.known_file(index, route, request, now);
        let known = response.as_mut()?;
        let config = &self.routes.config;
        let address = config.proxies.client(client.address, &request.fields);
        // A refusal is made by the other way, with the site's page for it.
        if !admits(config, &route.site, &self.rates, address, now.monotonic) {
            return None;
        }
        self.complete(known, client, route, request);
        response
    }

    /// The site that `request` is for and its index, or the status that says why it has none.
    fn site_for(&self, client: &Client, request: &Request) -> Result<(usize, &SiteRoute), Status> {
        let Some((index, route)) = self.routes.site(&request.host) else {
            return Err(match client.tls_policy {
                Some(_) => Status(421),
                None => Status(404),
            });
        };
        let is_other_policy = |policy| policy != route.tls_policy;
        if route.site.tunnel.is_some() || client.tls_policy.is_some_and(is_other_policy) {
            return Err(Status(421));
        }
        // In plain text nobody has shown a certificate.
        let auth = route.site.tls.client_auth.as_ref();
        if client.tls_policy.is_none() && auth.is_some_and(|auth| auth.is_required) {
            return Err(Status(421));
        }
        Ok((index, route))
    }

    /// The response with a file that no route covers and that the cache knows.
    fn known_file(
        &self,
        index: usize,
        site: &SiteRoute,
        request: &Request,
        now: Now,
    ) -> Option<Response> {
        if !site.rules.is_empty() {
            let normal = rules::normalize(request.path()).ok()?;
            if site.rules.find(&normal).is_some() {
                return None;
            }
        }
        self.file_site(index, &site.site.files)
            .respond_known(request, now)
    }

    /// Adds the fields to `response` that the site and the configuration add to all.
    fn complete(
        &self,
        response: &mut Response,
        client: &Client,
        route: &SiteRoute,
        request: &Request,
    ) {
        // RFC 6797 7.2: only over a secure transport.
        if let (Some(value), Some(_)) = (&route.hsts, client.tls_policy) {
            put(response, "strict-transport-security", value.clone());
        }
        let ids = &self.routes.config.request_id;
        if ids.to_clients {
            let id = self.identify(client, request).id;
            put(response, ids.field, Bytes::from(id.into_owned()));
        }
    }

    /// What the site's routes, or else its root, make of `request`.
    async fn of_site(
        &self,
        client: &Client,
        (index, site): (usize, &SiteRoute),
        request: &Request,
        body: RequestBody,
        now: Now,
    ) -> Response {
        if site.rules.is_empty() {
            drop(body);
            return self
                .file_site(index, &site.site.files)
                .respond(request, now)
                .await;
        }
        let Ok(normal) = rules::normalize(request.path()) else {
            drop(body);
            return match request.path() {
                // RFC 9110 9.3.7: OPTIONS for the server itself.
                "*" => {
                    self.file_site(index, &site.site.files)
                        .respond(request, now)
                        .await
                }
                _ => error_page::page(Status(400)),
            };
        };
        let Some(rule) = site.rules.find(&normal) else {
            drop(body);
            return self
                .file_site(index, &site.site.files)
                .respond(request, now)
                .await;
        };
        let strip_prefix = match &rule.route.action {
            RouteAction::Proxy(proxy) => Some(proxy.strip_prefix),
            RouteAction::Files(_) | RouteAction::Redirect { .. } | RouteAction::Fixed { .. } => {
                None
            }
        };
        let target = strip_prefix.map_or_else(Cow::default, |strip_prefix| {
            site.rules
                .target_passed_on(request, &normal, rule, strip_prefix)
        });
        let config = &self.routes.config;
        let asking = proxy::Asking {
            client,
            is_trusted: config.proxies.trusts(client.address),
            request,
            normal: &normal,
            target: &target,
            id_field: config
                .request_id
                .to_upstreams
                .then_some(config.request_id.field),
            now: now.monotonic,
        };
        let mut response = self.by_rule(rule, &asking, body, now).await;
        rules::edit_response(&mut response, &rule.route.response_fields);
        response
    }

    fn file_site<'a>(&'a self, index: usize, files: &'a Files) -> file::FileSite<'a, T> {
        file::FileSite {
            cache: &self.cache,
            index,
            files,
        }
    }

    async fn by_rule(
        &self,
        rule: &Rule,
        asking: &proxy::Asking<'_>,
        body: RequestBody,
        now: Now,
    ) -> Response {
        let route = &rule.route;
        let (request, normal) = (asking.request, asking.normal);
        match &route.action {
            RouteAction::Proxy(proxy) => match &self.proxy {
                // Boxed: its state is many times that of serving a file.
                Some(passing) => {
                    let identity = self.identify(asking.client, request);
                    Box::pin(passing.respond((route, proxy), asking, &identity, body)).await
                }
                None => error_page::page(Status(500)),
            },
            RouteAction::Files(RouteFiles {
                files,
                strip_prefix,
            }) => {
                drop(body);
                let root = rule.root.unwrap_or(usize::MAX);
                if !strip_prefix {
                    return self.file_site(root, files).respond(request, now).await;
                }
                let mut behind = request.clone();
                behind.target = rules::target_behind(request, normal, route).into();
                let response = self.file_site(root, files).respond(&behind, now).await;
                rules::put_prefix_back(response, route)
            }
            RouteAction::Redirect {
                status,
                location,
                strip_prefix,
            } => {
                let target = match strip_prefix {
                    true => rules::target_behind(request, normal, route),
                    false => request.target.to_string(),
                };
                let location = match location.strip_suffix("$path") {
                    Some(start) => format!("{start}{target}"),
                    None => location.clone(),
                };
                let mut visible = Vec::with_capacity(location.len());
                path::push_visible(&mut visible, location.as_bytes());
                error_page::page(Status(*status)).with("location", Bytes::from(visible))
            }
            RouteAction::Fixed { status, body } => match body {
                None => error_page::page(Status(*status)),
                Some(text) => Response::new(Status(*status))
                    .with("content-type", PLAIN_TEXT)
                    .with("x-content-type-options", error_page::NOSNIFF)
                    .with_body(Body::Bytes(Bytes::copy_from_slice(text.as_bytes()))),
            },
        }
    }
}

/// Our own word goes before that of a server behind us.
fn put(response: &mut Response, name: &'static str, value: Bytes) {
    let relayed = &mut response.relayed;
    relayed.retain(|field, _| !field.eq_ignore_ascii_case(name.as_bytes()));
    response.fields.push((name, value));
}

fn root_of(files: &Files) -> io::Result<Root> {
    let path = CString::new(files.root.as_os_str().as_bytes())?;
    // A root that is not there yet is asked for by its files; until then nothing is read from it.
    let is_remote = !sys::file::is_local(&path).unwrap_or(false);
    let device = std::fs::metadata(&files.root).map_or(0, |root| root.dev());
    Ok(Root {
        is_remote,
        device,
        path: path.into(),
        symlinks: files.symlinks,
        dotfiles: files.dotfiles,
        headers: Arc::clone(&files.headers),
    })
}

const PLAIN_TEXT: Bytes = Bytes::from_static(b"text/plain; charset=utf-8");

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
pub(crate) mod testing;

#[cfg(test)]
mod tests;
