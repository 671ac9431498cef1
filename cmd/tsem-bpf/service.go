// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// service is what the service manager that started this process knows of it (sd_notify(3)). Where
// none did nothing happens.
type service struct {
	tell     func(state string) error
	watchdog time.Duration // after so long without a sign of life this process is ended; 0: it is not
}

// newService returns the service that this process is.
func newService() (*service, error) {
	watchdog, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("the watchdog of the service: %w", err)
	}
	tell := func(state string) error {
		_, err := systemd.SdNotify(false, state)
		return err
	}
	return &service{tell, watchdog}, nil
}

// begin says that the service is ready. From then on until ended is closed it feeds the watchdog, twice
// in the time that it has, as long as work moves. moves returns what there is to say of the service, or why nothing moves,
// which goes to say.
func (s *service) begin(ended <-chan struct{}, moves func() (status string, err error), say func(error)) error {
	status, err := moves()
	if err != nil {
		return err
	}
	if err := s.tell(systemd.SdNotifyReady + "\nSTATUS=" + status); err != nil {
		return fmt.Errorf("tell the service manager that the service is ready: %w", err)
	}
	if s.watchdog > 0 {
		go s.feed(ended, moves, say)
	}
	return nil
}

func (s *service) feed(ended <-chan struct{}, moves func() (string, error), say func(error)) {
	beat := time.NewTicker(s.watchdog / 2)
	defer beat.Stop()
	for {
		select {
		case <-ended:
			return
		case <-beat.C:
		}
		status, err := moves()
		if err == nil {
			err = s.tell(systemd.SdNotifyWatchdog + "\nSTATUS=" + status)
		}
		if err != nil {
			say(fmt.Errorf("the watchdog is not fed: %w", err))
		}
	}
}

// end says that the service ends.
func (s *service) end() error { return s.tell(systemd.SdNotifyStopping) }
