/*
 * The server of the worked example: on 0.0.0.0:2580 it answers GET and HEAD of "/" with one line, any
 * other path with 404, any other method with 405. HTTP/1.1 with kept-alive connections (RFC 9112).
 *
 * In C, and linked against the libc of its image, so that it starts only where the image's root file
 * system is really its own. As pid 1 of a container no signal has a default effect on it
 * (pid_namespaces(7)): SIGTERM and SIGINT are blocked and read from a descriptor like everything else.
 *
 * One thread, one poll loop; every connection has a fixed buffer and a deadline.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PORT = 2580,
    MOST_CLIENTS = 256,
    LARGEST_HEAD = 8192, /* bytes of a request line and its fields */
    PATIENCE_MS = 10000, /* for the next byte from or to a client */
};

static const char GREETING[] = "This is a small app for kubernetes...\n";

struct client {
    int fd;
    long long deadline; /* monotonic, in milliseconds */
    bool last;          /* close when the answer is out */
    bool draining;      /* all is said: wait for the peer to close, so that no reset eats the answer */
    size_t received;
    size_t answer_length, answered;
    char request[LARGEST_HEAD];
    char answer[512];
};

static struct client *clients[MOST_CLIENTS];
static size_t connected;

static void fail(const char *what)
{
    fprintf(stderr, "app: failed to %s: %s\n", what, strerror(errno));
    exit(1);
}

static long long now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000LL + at.tv_nsec / 1000000;
}

static int signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        fail("block signals");
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (fd < 0)
        fail("open a signal descriptor");
    return fd;
}

static int listener(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(PORT),
        .sin_addr.s_addr = htonl(INADDR_ANY),
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("open a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, SOMAXCONN) < 0)
        fail("listen on 0.0.0.0:2580");
    return fd;
}

static void take(int from)
{
    int fd = accept4(from, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return; /* the peer thought better of it */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        close(fd);
        return;
    }
    client->fd = fd;
    client->deadline = now() + PATIENCE_MS;
    clients[connected++] = client;
}

static void drop(size_t index)
{
    close(clients[index]->fd);
    free(clients[index]);
    clients[index] = clients[--connected];
}

/* The value of a field in a head that ends with a zero byte, or NULL. */
static const char *field(const char *head, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) == 0 && line[length] == ':')
            return line + length + 1 + strspn(line + length + 1, " \t");
    }
    return NULL;
}

static void answer(struct client *client, const char *status, const char *extra, const char *body, bool with_body)
{
    client->answered = 0;
    client->answer_length = (size_t)snprintf(
        client->answer, sizeof client->answer,
        "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n%s%s\r\n%s", status,
        strlen(body), extra, client->last ? "Connection: close\r\n" : "", with_body ? body : "");
}

/* Answers the request whose head, `length` bytes and a zero, stands at the start of the buffer. */
static void serve(struct client *client, const char *head)
{
    char method[16], target[1024];
    int minor = 0;
    if (sscanf(head, "%15[A-Z] %1023[^ \r\n] HTTP/1.%1d\r\n", method, target, &minor) != 3 || target[0] != '/') {
        client->last = true;
        answer(client, "400 Bad Request", "", "400 bad request\n", true);
        return;
    }
    const char *connection = field(head, "Connection");
    client->last = minor == 0 || (connection != NULL && strncasecmp(connection, "close", 5) == 0);
    /* What follows the head of a request with a body is not the next request. */
    const char *length = field(head, "Content-Length");
    if (field(head, "Transfer-Encoding") != NULL || (length != NULL && atoll(length) != 0))
        client->last = true;

    target[strcspn(target, "?")] = '\0';
    bool get = strcmp(method, "GET") == 0;
    if (!get && strcmp(method, "HEAD") != 0)
        answer(client, "405 Method Not Allowed", "Allow: GET, HEAD\r\n", "405 method not allowed\n", true);
    else if (strcmp(target, "/") == 0)
        answer(client, "200 OK", "", GREETING, get);
    else
        answer(client, "404 Not Found", "", "404 not found\n", get);
}

/* Turns the next whole head in the buffer into an answer. */
static void parse(struct client *client)
{
    char *end = memmem(client->request, client->received, "\r\n\r\n", 4);
    if (end == NULL) {
        if (client->received < sizeof client->request)
            return;
        client->last = true;
        answer(client, "431 Request Header Fields Too Large", "", "431 request header fields too large\n", true);
        return;
    }
    size_t length = (size_t)(end + 4 - client->request);
    end[2] = '\0';
    serve(client, client->request);
    client->received -= length;
    memmove(client->request, client->request + length, client->received);
}

/* Moves one connection on; false when it is over. */
static bool advance(struct client *client, short events)
{
    if (events & (POLLIN | POLLHUP | POLLERR)) {
        char thrown[4096];
        char *into = client->draining ? thrown : client->request + client->received;
        size_t room = client->draining ? sizeof thrown : sizeof client->request - client->received;
        if (room > 0) {
            ssize_t got = recv(client->fd, into, room, 0);
            if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
                return false;
            if (got > 0 && !client->draining) {
                client->received += (size_t)got;
                client->deadline = now() + PATIENCE_MS;
            }
        }
    }
    /* One answer at a time: the next request waits in the buffer. */
    while (!client->draining) {
        if (client->answer_length == 0)
            parse(client);
        if (client->answer_length == 0)
            return true;
        ssize_t put = send(client->fd, client->answer + client->answered,
                           client->answer_length - client->answered, MSG_NOSIGNAL);
        if (put < 0)
            return errno == EAGAIN || errno == EINTR;
        client->answered += (size_t)put;
        client->deadline = now() + PATIENCE_MS;
        if (client->answered < client->answer_length)
            return true;
        client->answer_length = 0;
        if (client->last) {
            shutdown(client->fd, SHUT_WR);
            client->draining = true;
        }
    }
    return true;
}

int main(void)
{
    int told = signals();
    int door = listener();
    printf("app: listening on 0.0.0.0:%d\n", PORT);
    fflush(stdout);
    for (;;) {
        struct pollfd watched[2 + MOST_CLIENTS] = {
            {.fd = told, .events = POLLIN},
            /* At the most, new clients wait in the kernel's queue. */
            {.fd = connected < MOST_CLIENTS ? door : -1, .events = POLLIN},
        };
        long long soonest = -1;
        for (size_t i = 0; i < connected; i++) {
            watched[2 + i].fd = clients[i]->fd;
            watched[2 + i].events = clients[i]->answer_length > 0 ? POLLOUT : POLLIN;
            if (soonest < 0 || clients[i]->deadline < soonest)
                soonest = clients[i]->deadline;
        }
        long long left = soonest < 0 ? -1 : soonest - now();
        if (poll(watched, 2 + connected, soonest < 0 ? -1 : left < 0 ? 0 : (int)left) < 0 && errno != EINTR)
            fail("wait for clients");
        if (watched[0].revents != 0) {
            struct signalfd_siginfo signal;
            if (read(told, &signal, sizeof signal) != sizeof signal)
                fail("read a signal");
            printf("app: %s, ending\n", strsignal((int)signal.ssi_signo));
            return 0;
        }
        /* From the back: dropping one moves the last into its place. */
        long long at = now();
        for (size_t i = connected; i-- > 0;)
            if (!(watched[2 + i].revents ? advance(clients[i], watched[2 + i].revents) : at < clients[i]->deadline))
                drop(i);
        if (watched[1].revents != 0)
            take(door);
    }
}
