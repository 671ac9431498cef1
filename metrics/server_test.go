// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// serve begins to serve on a free port, with limits that a test may change before.
func serve(t *testing.T, config string, change func(*limits), gatherer prometheus.Gatherer, healthy, ready Check) (url string) {
	t.Helper()
	s, err := Listen("127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&s.limits)
	}
	var stderr bytes.Buffer
	s.Serve(gatherer, healthy, ready, &stderr)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if stderr.Len() > 0 {
			t.Errorf("it said %s", &stderr)
		}
	})
	return "http://" + s.Addr().String()
}

func well() []string { return nil }

// ask returns the status and text of an answer.
func ask(t *testing.T, method, url, password string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if password != "" {
		request.SetBasicAuth("prometheus", password)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	return ask(t, http.MethodGet, url, "")
}

// TestServer: what is gathered and what is wrong is shown, and nothing else.
func TestServer(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(engineOf(snapshot()))
	url := serve(t, "", nil, registry, well, func() []string { return []string{"one thing", "another"} })
	for _, c := range []struct {
		path   string
		status int
		says   string
	}{
		{"/metrics", 200, `tsem_tasks{engine="e",namespace="3"} 2`},
		{"/healthz", 200, "ok\n"},
		{"/readyz", 503, "one thing\nanother\n"},
		{"/debug/pprof/", 404, ""},
	} {
		if status, text := get(t, url+c.path); status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: status %d: %s", c.path, status, text)
		}
	}
	if status, _ := ask(t, http.MethodPost, url+"/healthz", ""); status != 405 {
		t.Errorf("a POST has status %d", status)
	}
}

// TestFailedScrape: where the kernel half cannot be read the scrape fails, and says why.
func TestFailedScrape(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewEngineCollector(func() (*Snapshot, error) { return nil, os.ErrClosed }))
	url := serve(t, "", nil, registry, well, well)
	if status, text := get(t, url+"/metrics"); status != 500 || !strings.Contains(text, os.ErrClosed.Error()) {
		t.Errorf("status %d: %s", status, text)
	}
}

// TestNeverReads: who does not read an answer, or sends no request, does not have a connection
// for ever: the only one there is goes to the next who asks.
func TestNeverReads(t *testing.T) {
	long := prometheus.NewRegistry()
	long.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "long", Help: strings.Repeat("x", 64<<20)}, func() float64 { return 1 }))
	url := serve(t, "", func(l *limits) { l.connections, l.read, l.write = 1, time.Second, time.Second }, long, well, well)
	for _, request := range []string{"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n", "GET", ""} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		if status, _ := get(t, url+"/healthz"); status != 200 {
			t.Errorf("after %q: status %d", request, status)
		}
	}
}

// TestScrapeHangs: a scrape that hangs is answered, those that find too many under way too, and
// the server can be closed.
func TestScrapeHangs(t *testing.T) {
	hanging, end := make(chan bool), make(chan bool)
	defer close(end)
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewEngineCollector(func() (*Snapshot, error) {
		hanging <- true
		<-end
		return nil, os.ErrClosed
	}))
	url := serve(t, "", func(l *limits) { l.scrapes, l.answer = 1, 100*time.Millisecond }, registry, well, well)
	go func() { <-hanging }()
	for range 2 {
		if status, text := get(t, url+"/metrics"); status != 503 {
			t.Errorf("status %d: %s", status, text)
		}
	}
}

// TestPassword: a web configuration of the exporter toolkit is obeyed.
func TestPassword(t *testing.T) {
	config := filepath.Join(t.TempDir(), "web.yml")
	// The password is tsem.
	const text = "basic_auth_users:\n  prometheus: $2a$04$cDLi5NshxgqhXdXvdFG9L.90RLX7NGgNbKOiVKyQnmvV9uNqn9R2a\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	url := serve(t, config, nil, prometheus.NewRegistry(), well, well)
	if status, _ := get(t, url+"/healthz"); status != 401 {
		t.Errorf("status %d without password", status)
	}
	if status, _ := ask(t, http.MethodGet, url+"/healthz", "mest"); status != 401 {
		t.Errorf("status %d with another one", status)
	}
	if status, _ := ask(t, http.MethodGet, url+"/healthz", "tsem"); status != 200 {
		t.Errorf("status %d with it", status)
	}
}

// TestSystemd: the socket that systemd hands over is taken, once. What systemd would do a shell
// does, which becomes this test once more.
func TestSystemd(t *testing.T) {
	if os.Getenv("LISTEN_PID") == fmt.Sprint(os.Getpid()) {
		s, err := Listen(Systemd, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(Systemd, ""); err == nil {
			t.Error("it was taken twice")
		}
		s.Serve(prometheus.NewRegistry(), well, well, os.Stderr)
		_, _ = io.Copy(io.Discard, os.Stdin) // until its other end is closed
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		return
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	file, err := socket.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -test.run='^TestSystemd$'`, os.Args[0])
	cmd.ExtraFiles = []*os.File{file}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if status, text := get(t, "http://"+socket.Addr().String()+"/healthz"); status != 200 || text != "ok\n" {
		t.Errorf("status %d: %s", status, text)
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, &out)
	}
}

// TestListenErrors: what is wrong with an address or a configuration is said.
func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	config := func(name, text string) string {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	misspelled := config("misspelled.yml", "tls_sever_config: {}\n")
	noKey := config("no-key.yml", "tls_server_config: {cert_file: no-key.yml, key_file: no.key}\n")
	noCertificate := config("no-certificate.yml", "tls_server_config: {cert_file: no-key.yml, key_file: no-key.yml}\n")
	for _, c := range []struct{ address, config, says string }{
		{taken.Addr().String(), "", "address already in use"},
		{"192.0.2.1:9560", "", "cannot assign requested address"},
		{"127.0.0.1:0", "/no/such/file", "configuration /no/such/file: open /no/such/file: no such file"},
		{"127.0.0.1:0", misspelled, "configuration " + misspelled + ": yaml: unmarshal errors:\n  line 1: field tls_sever_config not found"},
		{"127.0.0.1:0", noKey, "configuration " + noKey + ": failed to read key_file (" + dir + "/no.key): open " + dir + "/no.key: no such file"},
		{"127.0.0.1:0", noCertificate, "configuration " + noCertificate + ": failed to load X509KeyPair: tls: failed to find any PEM data in certificate input"},
		{Systemd, "", "systemd has handed over 0 sockets"},
	} {
		s, err := Listen(c.address, c.config)
		if err == nil {
			_ = s.Close()
		}
		if !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s %s: %v; want %s", c.address, c.config, err, c.says)
		}
	}
}

// TestCloseBeforeServe: a server that never began gives its address back.
func TestCloseBeforeServe(t *testing.T) {
	s, err := Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Listen(s.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestCheckAddress: a host may be left out, a port not.
func TestCheckAddress(t *testing.T) {
	for address, right := range map[string]bool{
		":9560": true, "localhost:9560": true, "[::1]:9560": true, ":0": true, "systemd": true,
		"": false, "9560": false, "localhost": false, "localhost:": false, ":http": false, ":65536": false, "::1:9560": false, "unix:/run/x": false,
	} {
		if err := CheckAddress(address); (err == nil) != right {
			t.Errorf("%q: %v", address, err)
		}
	}
}
