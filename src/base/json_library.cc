// Boost.JSON, which Debian has no static library of, compiled into this program once.
#include <boost/json/src.hpp>
