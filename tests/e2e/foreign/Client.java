import java.io.InputStream;
import java.io.OutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertPathBuilderException;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLHandshakeException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * Downloads with Java's own TLS and HTTP: each path with HttpClient over HTTP/1.1 and over HTTP/2, there
 * all at once too, in both versions of TLS, and over sockets that take up the session of one before.
 * Writes the bodies to standard output, one after the other.
 *
 * <p>java Client.java AUTHORITY PORT PATH...
 */
public final class Client {
    private static final OutputStream OUT = System.out;

    public static void main(String[] arguments) throws Exception {
        Path authority = Path.of(arguments[0]);
        int port = Integer.parseInt(arguments[1]);
        List<String> paths = List.of(arguments).subList(2, arguments.length);
        String origin = "https://localhost:" + port;
        for (String version : List.of("TLSv1.2", "TLSv1.3")) {
            // One context for each: it keeps the sessions.
            download(client(trusting(authority), version, HttpClient.Version.HTTP_1_1), origin, paths);
            HttpClient http2 = client(trusting(authority), version, HttpClient.Version.HTTP_2);
            download(http2, origin, paths);
            downloadAtOnce(http2, origin, paths);
            resume(trusting(authority), version, port, paths.get(0));
        }
        refuseStranger(origin);
        OUT.flush();
    }

    /** A context that trusts the certificate in a file, and no other. */
    private static SSLContext trusting(Path authority) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = Files.newInputStream(authority)) {
            CertificateFactory certificates = CertificateFactory.getInstance("X.509");
            store.setCertificateEntry("authority", certificates.generateCertificate(file));
        }
        TrustManagerFactory trust =
                TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    private static HttpClient client(SSLContext context, String version, HttpClient.Version http) {
        SSLParameters parameters = context.getDefaultSSLParameters();
        parameters.setProtocols(new String[] {version});
        return HttpClient.newBuilder()
                .sslContext(context)
                .sslParameters(parameters)
                .version(http)
                .connectTimeout(Duration.ofMinutes(1))
                .build();
    }

    private static HttpRequest request(String origin, String path) {
        URI uri = URI.create(origin + path);
        return HttpRequest.newBuilder(uri).timeout(Duration.ofMinutes(1)).build();
    }

    private static void download(HttpClient client, String origin, List<String> paths)
            throws Exception {
        for (String path : paths) {
            take(client, client.send(request(origin, path), BodyHandlers.ofByteArray()));
        }
    }

    private static void downloadAtOnce(HttpClient client, String origin, List<String> paths)
            throws Exception {
        List<CompletableFuture<HttpResponse<byte[]>>> all = new ArrayList<>();
        for (String path : paths) {
            all.add(client.sendAsync(request(origin, path), BodyHandlers.ofByteArray()));
        }
        for (CompletableFuture<HttpResponse<byte[]>> response : all) {
            take(client, response.get());
        }
    }

    private static void take(HttpClient client, HttpResponse<byte[]> response) throws Exception {
        expect("status", response.statusCode(), 200);
        expect("HTTP version", response.version(), client.version());
        String version = response.sslSession().orElseThrow().getProtocol();
        expect("TLS version", version, client.sslParameters().getProtocols()[0]);
        OUT.write(response.body());
    }

    /** Two connections; the server tells whether the second is of the same session. */
    private static void resume(SSLContext context, String version, int port, String path)
            throws Exception {
        for (int connection = 0; connection < 2; connection++) {
            try (SSLSocket socket =
                    (SSLSocket) context.getSocketFactory().createSocket("localhost", port)) {
                SSLParameters parameters = socket.getSSLParameters();
                parameters.setProtocols(new String[] {version});
                parameters.setEndpointIdentificationAlgorithm("HTTPS");
                parameters.setApplicationProtocols(new String[] {"http/1.1"});
                socket.setSSLParameters(parameters);
                socket.setSoTimeout(60_000);
                socket.startHandshake();
                expect("protocol", socket.getApplicationProtocol(), "http/1.1");
                String head = "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n";
                socket.getOutputStream().write((head + "Connection: close\r\n\r\n").getBytes());
                byte[] answer = socket.getInputStream().readAllBytes();
                String text = new String(answer, "ISO-8859-1");
                expect("status line", text.lines().findFirst().orElse(""), "HTTP/1.1 200 OK");
                int headBytes = text.indexOf("\r\n\r\n") + 4;
                OUT.write(answer, headBytes, answer.length - headBytes);
            }
        }
    }

    /** Asks with the authorities that Java trusts by itself. */
    private static void refuseStranger(String origin) throws Exception {
        HttpClient stranger = HttpClient.newBuilder().sslContext(SSLContext.getDefault()).build();
        try {
            stranger.send(request(origin, "/"), BodyHandlers.discarding());
        } catch (SSLHandshakeException refused) {
            for (Throwable cause = refused; cause != null; cause = cause.getCause()) {
                if (cause instanceof CertPathBuilderException) {
                    return;
                }
            }
            throw refused;
        }
        throw new AssertionError("an unknown authority is trusted");
    }

    private static void expect(String what, Object found, Object wanted) {
        if (!found.equals(wanted)) {
            throw new AssertionError(what + ": " + found + " instead of " + wanted);
        }
    }
}
