// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/net/netutil"
)

// Systemd is the address that stands for the socket that systemd hands over (sd_listen_fds(3)).
const Systemd = "systemd"

// limits bound what those may cost who ask.
type limits struct {
	connections int           // at a time; who comes then waits for one of them to end
	scrapes     int           // at a time; one more is answered with 503
	answer      time.Duration // how long an answer may take before it is 503
	read        time.Duration // how long a request may take to come
	write       time.Duration // how long from then on until its answer was taken
	idle        time.Duration // how long a connection may be without request
	end         time.Duration // how long Close waits for answers that are under way
}

// Prometheus has one connection, gives up a scrape after 10 s and asks again after a minute,
// if it is not told otherwise.
var usual = limits{
	connections: 16, scrapes: 4, answer: 10 * time.Second,
	read: 5 * time.Second, write: 30 * time.Second, idle: 2 * time.Minute, end: 2 * time.Second,
}

// maxHeader is enough for any request here, with a password or certificate.
const maxHeader = 16 << 10

// CheckAddress returns an error that says the rule if an address cannot be one of Listen.
func CheckAddress(address string) error {
	if address == Systemd {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return errors.New("HOST:PORT with a number as port, for example localhost:9560 or :9560, or " + Systemd)
	}
	return nil
}

// CheckConfig returns an error that says what is wrong with a file that says how a Server answers; "" is none. It does not name the file.
func CheckConfig(config string) error { return web.Validate(config) }

// Server answers operators over HTTP. Make it with Listen.
type Server struct {
	limits   limits
	listener net.Listener
	config   string
	http     *http.Server
	ended    chan error // what serving returned; nil: it has not begun
}

// Listen opens the address at which a Server will answer, HOST:PORT or Systemd, and checks the
// file that says how, with TLS and passwords: that of the Prometheus exporter toolkit; "" is plain
// HTTP. The error says what is wrong with which of them. Who connects before Serve waits.
func Listen(address, config string) (*Server, error) {
	if err := CheckConfig(config); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", config, err)
	}
	if address != Systemd {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return nil, err
		}
		return &Server{limits: usual, listener: listener, config: config}, nil
	}
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take the socket of systemd: %w", err)
	}
	if len(listeners) != 1 || listeners[0] == nil {
		for _, l := range listeners {
			if l != nil {
				err = errors.Join(err, l.Close())
			}
		}
		return nil, errors.Join(fmt.Errorf("systemd has handed over %d sockets, and not one that listens: is there a socket unit of this name?", len(listeners)), err)
	}
	return &Server{limits: usual, listener: listeners[0], config: config}, nil
}

// Addr returns the address at which the server answers.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// A Check returns what is wrong, a sentence each; nil: nothing.
type Check func() []string

// Serve begins to answer: /metrics with what is gathered, /healthz and /readyz with what the two
// checks find, by status 200 or 503. What an operator has to know goes to stderr. It is called once.
func (s *Server) Serve(gatherer prometheus.Gatherer, healthy, ready Check, stderr io.Writer) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{
		MaxRequestsInFlight: s.limits.scrapes,
		// Compressing costs more than all the rest of an answer, and takes it from the reader of the magazine.
		DisableCompression: true,
	}))
	mux.Handle("GET /healthz", healthy)
	mux.Handle("GET /readyz", ready)
	s.http = &http.Server{
		Handler:     http.TimeoutHandler(mux, s.limits.answer, "the kernel half was not read in time\n"),
		ReadTimeout: s.limits.read, WriteTimeout: s.limits.write, IdleTimeout: s.limits.idle, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(io.Discard, "", 0), // of what clients do wrong, as often as they like
	}
	s.ended = make(chan error, 1)
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	go func() {
		err := web.Serve(netutil.LimitListener(s.listener, s.limits.connections), s.http, &web.FlagConfig{WebConfigFile: &s.config}, logger)
		if !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintf(stderr, "tsem-bpf: metrics at %s are shown no longer: %v\n", s.Addr(), err)
		}
		s.ended <- err
	}()
}

// ServeHTTP answers with what the check finds.
func (c Check) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if wrong := c(); len(wrong) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, strings.Join(wrong, "\n")+"\n")
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// Close ends the answering. Answers that are under way have a moment.
func (s *Server) Close() error {
	if s.ended == nil {
		return s.listener.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.limits.end)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	if served := <-s.ended; err == nil && !errors.Is(served, http.ErrServerClosed) {
		return nil // it was said when it happened
	}
	return err
}
