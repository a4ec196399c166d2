import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;

/** The JDK's HttpClient as it comes: asks for HTTP/2 by `Upgrade: h2c`. Prints a line for each reply: status, body. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        String body = arguments[1];
        HttpClient client = HttpClient.newHttpClient();
        print(client.send(post(url, BodyPublishers.ofString(body)), BodyHandlers.ofString()));
        // Of unknown length, so it is sent in chunks; on the connection that the first request has left open.
        BodyPublisher chunked = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body.getBytes()));
        print(client.send(post(url, chunked), BodyHandlers.ofString()));
        List<CompletableFuture<HttpResponse<String>>> atOnce = IntStream.range(0, 4)
                .mapToObj(number -> client.sendAsync(post(url, BodyPublishers.ofString(body)), BodyHandlers.ofString()))
                .toList();
        for (CompletableFuture<HttpResponse<String>> reply : atOnce) {
            print(reply.get());
        }
    }

    private static HttpRequest post(String url, BodyPublisher body) {
        return HttpRequest.newBuilder(URI.create(url)).header("Content-Type", "application/json").POST(body).build();
    }

    private static void print(HttpResponse<String> reply) {
        System.out.println(reply.statusCode() + " " + reply.body());
    }
}
