// SPDX-License-Identifier: Apache-2.0

package event

// AppendAggregate appends the record that an external namespace begins with, as one line
// of JSON, and returns the extended buffer. value is the measurement of the platform: as
// many bytes as a digest of the namespace has, zeros if there is none.
func AppendAggregate(dst, value []byte) []byte {
	dst = append(dst, `{"export": {"type": "aggregate"}, "aggregate": {"value": "`...)
	dst = appendHex(dst, value)
	return append(dst, "\"}}\n"...)
}
