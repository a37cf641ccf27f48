// Drives a batch endpoint with Asana's SDK.
const Asana = require('asana');

const client = Asana.ApiClient.instance;
client.basePath = process.env.BATCHD + '/api/1.0';
client.authentications.token.accessToken = '0/abc';
const api = new Asana.BatchAPIApi();
const say = (what) => console.log(JSON.stringify(what));

const actions = [
  {method: 'get', relative_path: '/tasks', data: {project: '55'}, options: {limit: 1, fields: ['name', 'gid']}},
  {method: 'post', relative_path: '/tasks', data: {name: 'Send it'}},
  {method: 'get', relative_path: '/nothing'},
  {method: 'post', relative_path: '/batch', data: {actions: []}},
];

const refused = async (body) => {
  try {
    say((await api.createBatchRequest(body)).data);
  } catch (e) {
    say([e.status, JSON.parse(e.response.text)]);
  }
};

(async () => {
  for (const action of (await api.createBatchRequest({data: {actions}})).data) say(action);
  say((await api.createBatchRequest({data: {actions}}, {opt_fields: 'status_code'})).data);
  await refused({data: {actions: Array(11).fill(actions[0])}});
  client.authentications.token.accessToken = null;
  await refused({data: {actions}});
})();
