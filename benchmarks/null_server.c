/* An S3 server that throws every body away, so that a client's own cost shows.
 *
 *   cc -O2 -pthread -o null_server null_server.c -lssl -lcrypto
 *   null_server PORT [CERTIFICATE.pem KEY.pem]
 *
 * It listens on loopback, by TLS if it is given a certificate. It says of every checksum that it is right, has no
 * objects, and takes every upload. Bodies without TLS are dropped in the kernel (MSG_TRUNC).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

typedef struct {
    int descriptor;
    SSL *tls;
    char buffer[1 << 16];
    size_t filled, used;
} Connection;

static SSL_CTX *context = NULL;
static char dropped[1 << 18];

static ssize_t receive(Connection *c, char *into, size_t size, int flags) {
    if (c->tls) return SSL_read(c->tls, into, size > sizeof dropped ? (int)sizeof dropped : (int)size);
    ssize_t count;
    do count = recv(c->descriptor, into, size, flags);
    while (count < 0 && errno == EINTR);
    return count;
}

static int answer(Connection *c, const char *text, size_t size) {
    while (size) {
        ssize_t count = c->tls ? SSL_write(c->tls, text, (int)size) : send(c->descriptor, text, size, MSG_NOSIGNAL);
        if (count <= 0) return -1;
        text += count;
        size -= count;
    }
    return 0;
}

static int skip(Connection *c, long size) {
    long here = (long)(c->filled - c->used);
    if (here > size) here = size;
    c->used += here;
    size -= here;
    while (size > 0) {
        size_t most = c->tls ? sizeof dropped : 1 << 24;
        ssize_t count = receive(c, dropped, size > (long)most ? most : (size_t)size, MSG_TRUNC);
        if (count <= 0) return -1;
        size -= count;
    }
    return 0;
}

static int line(Connection *c, char *into, size_t limit) {
    size_t length = 0;
    for (;;) {
        if (c->used == c->filled) {
            ssize_t count = receive(c, c->buffer, sizeof c->buffer, 0);
            if (count <= 0) return -1;
            c->filled = count;
            c->used = 0;
        }
        char one = c->buffer[c->used++];
        if (one == '\n') {
            if (length && into[length - 1] == '\r') length--;
            into[length] = 0;
            return (int)length;
        }
        if (length < limit - 1) into[length++] = one;
    }
}

static int serve_one(Connection *c) {
    char request[8192], header[8192], told[2048] = "", out[16384];
    long size = 0;
    int length, expects = 0;
    if (line(c, request, sizeof request) <= 0) return -1;
    while ((length = line(c, header, sizeof header)) > 0) {
        if (!strncasecmp(header, "content-length:", 15)) size = atol(header + 15);
        else if (!strncasecmp(header, "expect:", 7)) expects = 1;
        else if (!strncasecmp(header, "x-amz-checksum-", 15) && strlen(told) + length + 3 < sizeof told)
            strcat(strcat(told, header), "\r\n");
    }
    if (length < 0) return -1;
    if (expects && answer(c, "HTTP/1.1 100 Continue\r\n\r\n", 25)) return -1;
    if (size && skip(c, size)) return -1;
    const char *status = "200 OK", *body = "";
    if (!strncmp(request, "POST", 4) && strstr(request, "uploadId="))
        body = "<CompleteMultipartUploadResult><ETag>\"0-1\"</ETag></CompleteMultipartUploadResult>";
    else if (!strncmp(request, "POST", 4) && strstr(request, "uploads"))
        body = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId>"
               "</InitiateMultipartUploadResult>";
    else if (!strncmp(request, "GET", 3) && strchr(request, '?'))
        body = "<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>"
               "</ListBucketResult>";
    else if (!strncmp(request, "DELETE", 6)) status = "204 No Content";
    else if (!strncmp(request, "GET", 3) || !strncmp(request, "HEAD", 4)) status = "404 Not Found";
    int count = snprintf(out, sizeof out,
                         "HTTP/1.1 %s\r\nETag: \"d41d8cd98f00b204e9800998ecf8427e\"\r\n%sx-amz-request-id: 1\r\n"
                         "Content-Type: application/xml\r\nContent-Length: %zu\r\n\r\n%s",
                         status, told, strlen(body), body);
    return answer(c, out, count);
}

static void *serve(void *given) {
    Connection *c = given;
    int ready = 1;
    if (context) {
        c->tls = SSL_new(context);
        SSL_set_fd(c->tls, c->descriptor);
        ready = SSL_accept(c->tls) > 0;
    }
    while (ready && !serve_one(c)) continue;
    if (c->tls) SSL_free(c->tls);
    close(c->descriptor);
    free(c);
    return NULL;
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    if (count > 3) {
        context = SSL_CTX_new(TLS_server_method());
        SSL_CTX_use_certificate_chain_file(context, arguments[2]);
        SSL_CTX_use_PrivateKey_file(context, arguments[3], SSL_FILETYPE_PEM);
    }
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(count > 1 ? atoi(arguments[1]) : 0)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) {
        perror("bind");
        return 1;
    }
    for (;;) {
        int descriptor = accept(listener, NULL, NULL);
        if (descriptor < 0) continue;
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        Connection *c = calloc(1, sizeof *c);
        c->descriptor = descriptor;
        pthread_t thread;
        pthread_create(&thread, NULL, serve, c);
        pthread_detach(thread);
    }
}
