// Downloads with the TLS and HTTP of Go's own library, over kept connections, in both versions of TLS
// and of HTTP, and takes up sessions again. Writes the bodies to standard output, one after the other,
// and what it finds wrong to standard error.
//
// client AUTHORITY PORT PATH...
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"time"
)

// One way to speak to the server.
type way struct {
	tlsVersion   uint16
	httpVersion  int
	connectionNo int
	client       *http.Client
}

func main() {
	authority, port, paths := os.Args[1], os.Args[2], os.Args[3:]
	text, err := os.ReadFile(authority)
	check(err)
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(text) {
		fail("no certificate in %s", authority)
	}
	origin := "https://localhost:" + port
	for _, tlsVersion := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, httpVersion := range []int{1, 2} {
			download(newWay(trusted, tlsVersion, httpVersion), origin, paths)
		}
	}
	refuseStranger(origin)
}

func newWay(trusted *x509.CertPool, tlsVersion uint16, httpVersion int) *way {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{
			RootCAs:            trusted,
			MinVersion:         tlsVersion,
			MaxVersion:         tlsVersion,
			ClientSessionCache: tls.NewLRUClientSessionCache(4),
		},
		ForceAttemptHTTP2: httpVersion == 2,
	}
	if httpVersion == 1 {
		// net/http: a map that is empty and not nil turns HTTP/2 off.
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	return &way{tlsVersion: tlsVersion, httpVersion: httpVersion, client: client}
}

// download asks for each path twice, over one connection each time; the second takes up the session of
// the first.
func download(by *way, origin string, paths []string) {
	for ; by.connectionNo < 2; by.connectionNo++ {
		for index, path := range paths {
			get(by, origin+path, index > 0)
		}
		by.client.CloseIdleConnections()
	}
}

func get(by *way, url string, isKept bool) {
	reused := false
	trace := &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
	}
	request, err := http.NewRequest("GET", url, nil)
	check(err)
	// An encoding that the client asks for by itself would hide the bytes that were sent.
	request.Header.Set("Accept-Encoding", "identity")
	response, err := by.client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	check(err)
	length, err := io.Copy(os.Stdout, response.Body)
	check(err)
	check(response.Body.Close())
	expect("status", response.StatusCode, http.StatusOK)
	expect("length", response.ContentLength, length)
	expect("HTTP version", response.ProtoMajor, by.httpVersion)
	expect("TLS version", response.TLS.Version, by.tlsVersion)
	expect("kept connection", reused, isKept)
	expect("session taken up", response.TLS.DidResume, by.connectionNo > 0)
}

// refuseStranger asks without knowing the authority.
func refuseStranger(origin string) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool()}}
	_, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Get(origin)
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		fail("an unknown authority: %v", err)
	}
}

func expect[T comparable](what string, found, wanted T) {
	if found != wanted {
		fail("%s: %v instead of %v", what, found, wanted)
	}
}

func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}
