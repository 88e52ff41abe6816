// SPDX-License-Identifier: MIT
// What the files of the HTTP server share. http.c opens and closes it, http_conn.c watches the
// connections, http_request.c takes requests in and gives answers out, http_local.c answers what
// needs no model, http_metrics.c counts.
//
// Threads: libmicrohttpd's one thread calls on_connection, on_request and on_completed and reads
// answers; a watcher ends what takes too long and notices clients that leave; a few others begin
// answers (td_api_begin may take long). The scheduler's thread says when there is more to read.
#ifndef TD_SERVER_HTTP_IMPL_H
#define TD_SERVER_HTTP_IMPL_H

#include "server/http.h"
#include "server/http_guard.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdarg.h>

enum {
    HTTP_BEGINNERS = 2,         // threads that begin answers
    HTTP_POOL_BYTES = 32 << 10, // of libmicrohttpd's, a connection: what a request's head may have
    HTTP_READ_TIMEOUT_S = 300,  // an idle connection, or a reader that takes nothing
    HTTP_LINGER_MAX = 64,
    HTTP_STATUSES = 600,
    HTTP_MAX_PATH = 2048,
};

struct td_http_request;

enum conn_state {
    CONN_IDLE,     // no byte of a request has come
    CONN_ARRIVING, // one is on its way: there is a deadline
    CONN_WORKING,  // it is whole
};
// What epoll's data points to.
enum watch_kind { WATCH_CONN, WATCH_LINGER };

struct td_http_conn {
    enum watch_kind kind;
    int fd; // libmicrohttpd's; valid while the connection is on h->conns
    enum conn_state state;
    uint64_t since_ns; // of this state
    char client[48];
    uint64_t address;
    bool lingers; // what still comes is to be read and dropped after closing
    struct MHD_Connection *mhd;
    struct td_http_request *request; // NULL: none
    struct td_http_conn *prev, *next;
};

// Reads and drops what a client still sends after an answer that did not wait for it: a socket
// closed with unread bytes is reset, and the answer may be lost with it.
struct http_linger {
    enum watch_kind kind;
    int fd;
    uint64_t until_ns;
    uint64_t left_bytes;
    struct http_linger *next;
};

enum stage {
    STAGE_BODY,  // the body is coming
    STAGE_BEGIN, // it is whole; begun, or due to be, but status and headers are not settled
    STAGE_SEND,
};

struct td_http_request {
    struct td_http *h;
    struct td_http_conn *conn; // NULL once libmicrohttpd is through with the request
    struct MHD_Connection *mhd;
    char id[24];
    char client_name[48];
    char method[16];
    char *path; // as asked for, without the part behind '?'
    bool is_head, is_http_1_0;
    uint64_t t0_ns;
    uint64_t client;

    // libmicrohttpd's thread, until it is handed to a beginner.
    enum stage stage;
    bool is_blocked_once; // see on_whole
    char *body;
    size_t body_bytes, body_cap;
    uint64_t in_bytes, out_bytes;
    unsigned status;
    // Answered so once the body has come; 0: nothing against it.
    unsigned refusal;
    char refusal_text[200];
    const char *allow;         // methods, for 405 and OPTIONS
    const char *allow_headers; // of a preflight
    char allow_origin[256];    // "": no such header
    uint32_t retry_after_s;    // 0: no such header
    bool is_preflight;

    struct td_api_reply *reply; // set with has_begun
    const char *piece;
    size_t piece_bytes;
    bool is_stream, is_read; // is_read: to the end

    // Guarded by h->lock.
    uint32_t n_refs;
    bool is_suspended;
    bool has_news;       // since td_api_read was last called
    bool has_begun;      // a beginner is through with it
    bool is_gone;        // the client; what calls next ends it
    bool is_half_closed; // the client sends no more
    uint64_t asked_ns;   // then: whether it still reads
    bool wants_word;     // something to keep the connection alive
    bool is_answering;
    uint64_t last_out_ns;
    struct td_http_request *next; // in the beginners' queue
};

struct td_http {
    struct td_http_config cfg;
    struct td_guard_names names;
    char *host;
    struct MHD_Daemon *mhd;
    int listen_fd;
    uint16_t port;
    int epoll_fd, wake_fd;
    uint64_t id_base;
    pthread_t watcher, beginners[HTTP_BEGINNERS];
    uint32_t n_threads; // that were started, the watcher first

    // Guards what follows, and what requests and connections say it guards. Taken before
    // libmicrohttpd's own lock, never while td_api_* is called.
    pthread_mutex_t lock;
    pthread_cond_t queue_changed; // there is a request to begin, or it is closing
    pthread_cond_t gone_changed;  // fewer requests
    struct td_http_conn *conns, *dead_conns;
    struct http_linger *lingers;
    struct td_http_request *queue, *queue_tail;
    struct td_guard_rates rates;
    uint32_t n_conns, n_requests, n_lingers;
    uint64_t body_bytes; // of all requests that have come in part or wait
    uint64_t n_ids;
    bool is_draining, is_closing, watcher_ends;
    uint64_t n_conns_total, in_bytes_total, out_bytes_total, n_cut;
    uint64_t n_by_status[HTTP_STATUSES];
    uint64_t n_gone;
};

// ---- http_conn.c
void http_on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                        enum MHD_ConnectionNotificationCode what);
void *http_watcher(void *arg); // a td_http
// With h->lock held. What is to be watched for follows from the state.
void http_conn_enter(struct td_http *h, struct td_http_conn *conn, enum conn_state state);
void http_request_end(struct td_http_request *r);    // the client has left, or is to
void http_request_resume(struct td_http_request *r); // if it is suspended
void http_watcher_wake(struct td_http *h);

// ---- http_request.c
enum MHD_Result http_on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_bytes, void **con_cls);
void http_on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                       enum MHD_RequestTerminationCode why);
void *http_beginner(void *arg); // a td_http
// With h->lock held, on libmicrohttpd's thread: until somebody resumes it. False: it is to end.
bool http_suspend(struct td_http_request *r);

// ---- http_answer.c
// Adds the headers every answer has, queues it and gives it away. NULL: MHD_NO.
enum MHD_Result http_send(struct td_http_request *r, unsigned status,
                          struct MHD_Response *response);
// Answers with a whole body, which is copied.
enum MHD_Result http_answer(struct td_http_request *r, unsigned status, const char *content_type,
                            const char *bytes, size_t n_bytes);
enum MHD_Result http_answer_error(struct td_http_request *r, unsigned status, const char *message);
// The answer that r->reply gives, once it is settled.
enum MHD_Result http_answer_reply(struct td_http_request *r);

// ---- http_local.c: what needs no model
bool http_local_has(const char *method, const char *path, const char **methods_out, bool *open_out);
enum MHD_Result http_local(struct td_http_request *r);

// ---- http_metrics.c
// The text of /metrics; the caller's to free, NULL without memory.
char *http_metrics(struct td_http *h, size_t *n_bytes_out);

#endif
